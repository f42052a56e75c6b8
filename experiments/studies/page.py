"""What a comparison or a study found, as a web page, as a README with figures, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from experiments.charts import Series

COLORS: Mapping[str, str] = {
    "fst": "c2",
    "rl": "c1",
    "gepa": "c4",
    "sequential": "c3",
    "distill": "c5",
}
"""An arm has the same colour everywhere."""


@dataclass(frozen=True)
class Figure:
    """A chart as :func:`experiments.charts.line_chart` draws it, and what its colours mean."""

    name: str
    title: str
    about: str
    svg: str
    legend: tuple[Series, ...]


@dataclass(frozen=True)
class Grid:
    """A table; the first column and those named in ``texts`` are text, the others are numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...] = ()

    @property
    def numbers(self) -> tuple[bool, ...]:
        """For every column, whether it holds numbers."""
        return tuple(at > 0 and name not in self.texts for at, name in enumerate(self.columns))


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, and perhaps a table and figures."""

    title: str
    texts: tuple[str, ...] = ()
    grid: Grid | None = None
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything that is written down of one comparison or study."""

    title: str
    headline: str
    sections: tuple[Section, ...]
    facts: Mapping[str, str] = field(default_factory=dict[str, str])


def write_page(page: Page, folder: Path, name: str) -> Path:
    """Write ``index.html``, which loads nothing, and ``README.md`` with its figures as files.

    Returns the path of the HTML page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = templates.get_template("study.css").render()
    template = templates.get_template("study.html.j2")
    html = template.render(page=page, style=Markup(style), name=name, markup=Markup)
    path = folder / "index.html"
    path.write_text(html, encoding="utf-8")
    for section in page.sections:
        for figure in section.figures:
            text = _standalone(figure, style)
            (folder / f"{figure.name}.svg").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(markdown(page), encoding="utf-8")
    return path


def markdown(page: Page) -> str:
    """The page as Markdown; figures are beside it as ``<name>.svg``."""
    out = [f"# {page.title}", page.headline]
    if page.facts:
        out.append(_markdown(Grid(("what", "value"), tuple(page.facts.items()), ("value",))))
    for section in page.sections:
        out += [f"## {section.title}", *section.texts]
        if section.grid is not None:
            out.append(_markdown(section.grid))
        for figure in section.figures:
            names = ", ".join(f"{s.name} ({COLOR_NAMES[s.color]})" for s in figure.legend)
            out += [
                f"{figure.title}. {figure.about}",
                f"![{figure.title}]({figure.name}.svg)",
                names,
            ]
    return "\n\n".join(out) + "\n"


COLOR_NAMES: Mapping[str, str] = {
    "c1": "blue", "c2": "orange", "c3": "green", "c4": "violet", "c5": "ochre", "c6": "pink",
    "rest": "grey",
}  # fmt: skip


def console_table(grid: Grid, title: str) -> Table:
    """The table for a terminal."""
    table = Table(title=title, title_justify="left")
    for column, number in zip(grid.columns, grid.numbers, strict=True):
        table.add_column(column, justify="right" if number else "left")
    for row in grid.rows:
        table.add_row(*map(Text, row))  # an instruction may look like markup
    return table


def points(value: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * value:+.1f}"


def _markdown(grid: Grid) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"

    rule = "|" + "|".join("---:" if number else "---" for number in grid.numbers) + "|"
    return "\n".join([line(grid.columns), rule, *map(line, grid.rows)])


def _standalone(figure: Figure, style: str) -> str:
    """An SVG that is a file of its own carries its style and its background."""
    head, _, body = figure.svg.partition(">")
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    ground = '<rect width="100%" height="100%" style="fill: var(--card)"/>'
    return f"{head}><style>{style}</style>{ground}{body}"
