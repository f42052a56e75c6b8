"""Numbers for people: as text, and as small SVG charts in the colours of the page's CSS.

Pure functions; no script, nothing loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

Point = tuple[float, float]

WIDTH, HEIGHT = 760, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 12, 40


@dataclass(frozen=True, slots=True)
class Series:
    """One line or one row of dots. ``color`` is a CSS class, ``c1`` to ``c6`` or ``rest``."""

    name: str
    points: tuple[Point, ...]
    color: str
    style: Literal["line", "dots", "both"] = "line"


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from data to pixels, with round tick values inside the data's range."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        step = nice_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice_step(raw: float) -> float:
    """The smallest of 1, 2, 5 × 10ⁿ that is at least ``raw``."""
    scale = 10.0 ** math.floor(math.log10(raw))
    return next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= raw * (1 - 1e-9))


def number(value: float) -> str:
    """A number as a person writes it: 1 200, 0.25, 3e-05."""
    if value == 0 or 1e-4 <= abs(value) < 1e15:
        whole = value == round(value) or abs(value) >= 1000
        text = f"{value:,.0f}" if whole else f"{value:,.4g}"
        return text.replace(",", "\u202f")
    return f"{value:.2g}"


def percent(value: float) -> str:
    """``0.973`` → ``97.3%``; scores outside 0..1 stay numbers."""
    return f"{100 * value:.1f}%" if 0 <= value <= 1 else number(value)


def duration(seconds: float) -> str:
    """``65`` → ``1 min 5 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def line_chart(series: Sequence[Series], *, title: str, x: str, unit_interval: bool) -> str:
    """Lines and dots over a common x axis.

    ``unit_interval`` fixes the y axis to 0..1 (scores); otherwise it starts at 0 and ends at a
    round number. Points that are not finite are left out.
    """
    kept = [(s, [p for p in s.points if all(map(math.isfinite, p))]) for s in series]
    points = [p for _, own in kept for p in own]
    if not points:
        return ""
    x_axis = Axis(0, _positive(max(p[0] for p in points)), LEFT, WIDTH - RIGHT)
    y_axis = _y_axis([p[1] for p in points], unit_interval)
    body = _grid(x_axis, y_axis, x)
    for one, own in kept:
        body += _draw(one, own, x_axis, y_axis)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )


def lineage(records: Sequence[Mapping[str, Any]]) -> str:
    """Φ over the cycles: a column per cycle, a node per candidate, lines from parents.

    ``records`` are those of :func:`fst_agents.run_dir.population_record`. Solid lines are
    candidates that stayed, dashed ones rewrites of a member of the cycle before.
    """
    column, row, top = 150, 46, 34
    size = max((len(r["candidates"]) for r in records), default=0)
    if size == 0:
        return ""
    where = [
        {c["id"]: (75 + i * column, top + 22 + j * row) for j, c in enumerate(_ranked(r))}
        for i, r in enumerate(records)
    ]
    width, height = column * len(records), top + size * row + 8
    body = "".join(_edges(r, where[i], where[i - 1]) for i, r in enumerate(records) if i)
    body += "".join(_nodes(r, where[i]) for i, r in enumerate(records))
    return (
        f'<svg class="lineage" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="Lineage">{body}</svg>'
    )


def _positive(value: float) -> float:
    """The end of an axis that begins at 0: 1 where there is nothing to see otherwise."""
    return value if value > 1e-12 else 1.0


def _y_axis(values: Sequence[float], unit_interval: bool) -> Axis:
    low, high = min(0.0, *values), _positive(max(values))
    if unit_interval and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    else:
        step = nice_step((high - low) / 4)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return Axis(low, high, HEIGHT - BOTTOM, TOP)


def _grid(x_axis: Axis, y_axis: Axis, label: str) -> str:
    out: list[str] = []
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        out.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        out.append(
            f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{number(tick)}</text>"
        )
    for tick in x_axis.ticks:
        out.append(
            f'<text class="tick" x="{x_axis.at(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" '
            f'text-anchor="middle">{number(tick)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(
        f'<text class="tick" x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(label)}</text>"
    )
    return "".join(out)


def _draw(series: Series, points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    pixels = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
    out = ""
    if series.style != "dots":
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        out += f'<polyline class="line {series.color}" points="{path}"/>'
    shown = "dot" if series.style != "line" else "dot quiet"
    for (x, y), (px, py) in zip(points, pixels, strict=True):
        tip = escape(f"{series.name}: {number(y)} after {number(x)} rollouts")
        out += (
            f'<circle class="{shown} {series.color}" cx="{px:.1f}" cy="{py:.1f}" r="4">'
            f"<title>{tip}</title></circle>"
        )
    return out


def _ranked(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Candidates by mean, best first; unscored ones last."""
    return sorted(
        record["candidates"], key=lambda c: math.inf if c["mean"] is None else -float(c["mean"])
    )


def _edges(
    record: Mapping[str, Any], here: Mapping[str, Point], before: Mapping[str, Point]
) -> str:
    out = ""
    for candidate in record["candidates"]:
        x2, y2 = here[candidate["id"]]
        stayed = candidate["id"] in before
        sources = [candidate["id"]] if stayed else [p for p in candidate["parents"] if p in before]
        for source in sources:
            x1, y1 = before[source]
            bend = (x1 + x2) / 2
            kind = "edge" if stayed else "edge rewritten"
            out += f'<path class="{kind}" d="M{x1},{y1} C{bend},{y1} {bend},{y2} {x2},{y2}"/>'
    return out


def _nodes(record: Mapping[str, Any], where: Mapping[str, Point]) -> str:
    x = next(iter(where.values()))[0]
    out = f'<text class="tick" x="{x}" y="16" text-anchor="middle">cycle {record["cycle"]}</text>'
    for candidate in record["candidates"]:
        x, y = where[candidate["id"]]
        champion = candidate["id"] == record["champion"]
        mean = candidate["mean"]
        label = candidate["id"][:6] + ("" if mean is None else f" · {float(mean):.2f}")
        text = escape("\n".join(f"{k}: {v}" for k, v in candidate["instructions"].items()))
        out += (
            f'<g class="node{" champion" if champion else ""}"><title>{text}</title>'
            f'<circle cx="{x}" cy="{y}" r="{8 if champion else 6}"/>'
            f'<text x="{x}" y="{y + 22}" text-anchor="middle">{escape(label)}</text></g>'
        )
    return out
