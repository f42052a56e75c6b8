"""The report page of a made-up run: complete, self-contained, escaped."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.charts import (
    Axis,
    Series,
    duration,
    line_chart,
    lineage,
    nice_step,
    number,
    percent,
)
from experiments.report import headline, write_report
from experiments.report_learning import compared, family, path_to
from experiments.report_outcomes import CANDIDATES_SHOWN, Tally, candidates, predictors, tally
from fst_agents.errors import RunDirError
from fst_agents.run_dir import RunDir, population_record
from fst_agents.run_file import parse
from fst_agents.types import (
    Call,
    Candidate,
    Feedback,
    Outcome,
    Policy,
    Population,
    Rollout,
    RunState,
    Spend,
)

EVIL = '<script src="https://evil.example/x.js">alert("&")</script>'


def candidate(text: str, *parents: Candidate) -> Candidate:
    return Candidate({"solve": text}, tuple(p.id for p in parents))


SEED = candidate("Solve the task.")
LEFT = candidate("Solve the task. Move the first element to the end.", SEED)
SWAP = candidate("Solve the task. Exchange the first and the last element.", SEED)
BOTH = candidate(
    "Solve the task. Move the first element to the end, then exchange the first and the last.",
    LEFT,
)
AGAIN = candidate("Move the first element to the end, then swap both ends. Answer in digits.", BOTH)
CYCLES = ((SEED, LEFT, SWAP), (SEED, LEFT, BOTH), (LEFT, BOTH, AGAIN), (BOTH, AGAIN))
SKILL = {SEED.id: 0.05, LEFT.id: 0.35, SWAP.id: 0.3, BOTH.id: 0.6, AGAIN.id: 0.62}


def rollout(rng: random.Random, version: int, who: Candidate, skill: float) -> Rollout:
    digits = [rng.randrange(10) for _ in range(5)]
    want = [*digits[1:], digits[0]]
    want[0], want[-1] = want[-1], want[0]
    right = rng.random() < skill
    got = want if right else digits
    score = 1.0 if right else sum(a == b for a, b in zip(want, got, strict=True)) / 5
    outcome = rng.choices([Outcome.OK, Outcome.TRUNCATED, Outcome.TIMEOUT], [95, 4, 1])[0]
    text = f"expected {want}, got {got}" + ("" if right else ": two positions are exchanged")
    call = Call("solve", (), (1, 2), (3,), (-0.1,), "stop", version, 1.0, " ".join(map(str, got)))
    inputs = {"digits": " ".join(map(str, digits))}
    return Rollout(
        f"train-{rng.randrange(512)}",
        who.id,
        version,
        (call,),
        Feedback(None if outcome.masked else score, text),
        outcome,
        {"answer": call.text},
        inputs,
    )


def make_run(path: Path, *, finished: bool = True) -> RunDir:
    """Four cycles of six slow steps that learn, as the demo's would."""
    rng = random.Random(0)
    run = RunDir.create(path, parse({"task": {"target": ["rotate_left", "swap_ends"]}}))
    rollouts, seconds, step = 0, 0.0, 0
    phi = Population((SEED,))
    for cycle, members in enumerate(CYCLES):
        lift = cycle / 9
        scores = {c.id: {f"p{i}": SKILL[c.id] + lift for i in range(4)} for c in members}
        phi = Population(members, scores, step)
        rollouts, seconds = rollouts + 480, seconds + 6.5
        best = max(SKILL[c.id] for c in members) + lift
        fast = {"fast/best_mean": best, "fast/seed_mean": 0.05 + lift / 2, "fast/front_size": 3.0}
        run.add_metrics(step, "fast", fast, rollouts=rollouts, seconds=seconds)
        run.write_population(cycle, phi, {"proposals": 9})
        for _ in range(6):
            step, rollouts, seconds = step + 1, rollouts + 128, seconds + 1.4
            grown = {c.id: min(0.99, SKILL[c.id] + step / 50 + rng.gauss(0, 0.02)) for c in members}
            slow = {f"slow/candidate/{name}/reward": value for name, value in grown.items()}
            slow |= {"slow/predictor/solve/trained_calls": 40.0}
            slow |= {"slow/reward": sum(grown.values()) / len(grown), "slow/drift": 0.02 * step}
            run.add_metrics(step, "slow", slow, rollouts=rollouts, seconds=seconds)
            batch = [rollout(rng, step, c, grown[c.id]) for c in members for _ in range(16)]
            run.add_rollouts(step, batch)
    spend = Spend(1920, 3072, 412_345, 44, 24, seconds)
    run.write_state(RunState(3, step, phi, Policy("micro", version=24), spend, 384))
    run.add_metrics(step, "eval", {"eval/score": 0.97}, rollouts=rollouts + 512, seconds=60.5)
    if finished:
        run.finish(RESULT)
    return run


RESULT: dict[str, Any] = {
    "arm": "fst",
    "task": "digits",
    "seed": 0,
    "scores": {
        "base_seed": 0.031,
        "base_evolved": 0.592,
        "trained_seed": 0.214,
        "trained_evolved": 0.973,
    },
    "intervals": {
        "base_seed": [0.012, 0.055],
        "base_evolved": [0.541, 0.64],
        "trained_seed": [0.172, 0.259],
        "trained_evolved": [0.951, 0.988],
    },
    "kl": 0.482,
    "retention": {"base": 0.981, "final": 0.969},
    "rollouts": {"fast": 1920, "slow": 3072},
    "cycles": 4,
    "policy_version": 24,
    "instructions": {"solve": AGAIN.instructions["solve"]},
    "seconds": 60.5,
    "run_dir": "runs/x",
    "mlflow_run_id": "abc",
    "curve": [],
}


class Page(HTMLParser):
    """Collects the text and the attributes of a page and checks that its tags close."""

    VOID = frozenset({"meta"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def report(run: RunDir) -> tuple[str, Page]:
    html = write_report(run.path).read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    return html, page


def test_the_page_says_what_happened(tmp_path: Path) -> None:
    _, page = report(make_run(tmp_path / "run"))
    for words in (
        "went from 3.1% to 97.3%",
        "95.1% to 98.8%",
        "98.1% → 96.9%",
        "The instruction it found",
        AGAIN.instructions["solve"],
        "Learning curve",
        "Distance from the base model",
        "two positions are exchanged",
        "cut off at the token limit",
        "1 min 0 s",
        "swap_ends",
        "What each predictor did",
        "Reward by instruction",
    ):
        assert words in page.text, words


def test_rollouts_are_counted_by_predictor_and_by_candidate(tmp_path: Path) -> None:
    """plan: 2 calls of 1 and 2 tokens, one unread, one cut off, own scores ½ and 1; solve: one
    call. Candidates: SEED 1 of 2 masked, LEFT one failure. plan was trained on 1 + 1 times."""
    run = RunDir.create(tmp_path / "run", parse({}))

    def made(who: Candidate, score: float | None, outcome: Outcome, *calls: Call) -> Rollout:
        own = {} if outcome is not Outcome.OK else {"plan": 0.5 + 0.5 * (score or 0)}
        return Rollout("p", who.id, 0, calls, Feedback(score, predictor_scores=own), outcome)

    plan = Call("plan", (), (1,), (2,), (-0.1,), "stop", 0, 1.0, "x", outputs={"a": "x"})
    cut = replace(
        plan, completion_ids=(2, 3), logprobs=(0, 0), outputs=None, finish_reason="length"
    )
    solve = replace(plan, predictor="solve")
    run.add_rollouts(1, [made(SEED, 1.0, Outcome.OK, plan, solve)])
    run.add_rollouts(2, [made(LEFT, 0.0, Outcome.TRUNCATED, cut)])
    run.add_rollouts("fast-000", [made(SEED, None, Outcome.TIMEOUT), made(SEED, 0.0, Outcome.OK)])
    for step in (1, 2):
        metrics = {"slow/predictor/plan/trained_calls": 1.0}
        run.add_metrics(step, "slow", metrics, rollouts=step, seconds=1.0)
    counted = tally(run, run.rollout_files())
    assert predictors(counted, run.metrics()) == [
        ("plan", ["2", "2", "1.5", "1 (50.0%)", "1 (50.0%)", "0.750"]),
        ("solve", ["1", "0", "1", "0", "0", "—"]),
    ]
    assert candidates(counted) == {
        "outcomes": ["ok", "truncated", "timeout"],
        "rows": [
            (SEED.id, ["3", "0.500", "2 (66.7%)", "0", "1 (33.3%)"]),
            (LEFT.id, ["1", "0.000", "0", "1 (100.0%)", "0"]),
        ],
        "hidden": 0,
    }
    _, page = report(run)
    for words in ("What each predictor did", "What became of each instruction", SEED.id[:6]):
        assert words in page.text


def test_only_the_candidates_with_the_most_rollouts_are_shown() -> None:
    counted = Tally()
    for k in range(CANDIDATES_SHOWN + 2):
        for _ in range(k + 1):
            rollout = Rollout("p", f"c{k}", 0, (), Feedback(1.0), Outcome.OK)
            counted.add("slow", rollout)
    shown = candidates(counted)
    assert shown["rows"][0][0] == f"c{CANDIDATES_SHOWN + 1}"
    assert (len(shown["rows"]), shown["hidden"]) == (CANDIDATES_SHOWN, 2)


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    html, page = report(make_run(tmp_path / "run"))
    loading = [a for a in page.attributes if a[1] in ("src", "href", "srcset", "action")]
    assert loading == []
    assert "script" not in {tag for tag, _, _ in page.attributes}
    assert "url(" not in html
    assert "@import" not in html


def test_whatever_a_model_writes_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", parse({"task": {"target": ["reverse"]}}))
    evil = Candidate({EVIL: EVIL})
    child = Candidate({EVIL: EVIL + " and more"}, (evil.id,))
    run.write_population(0, Population((evil,)))
    run.write_population(1, Population((evil, child), {child.id: {EVIL: 0.5}}))
    call = Call(EVIL, (), (), (), (), "stop", 0, 1.0, EVIL)
    feedback = [Feedback(score, EVIL) for score in (0.0, 1.0)]
    rollouts = [
        Rollout(EVIL, EVIL, 0, (call,), f, Outcome.OK, {EVIL: EVIL}, {EVIL: EVIL}, EVIL)
        for f in feedback
    ]
    run.add_rollouts(0, rollouts)
    metrics = {f"slow/candidate/{EVIL}/reward": 0.5, "slow/reward": 0.5}
    run.add_metrics(1, "slow", metrics, rollouts=2, seconds=1.0)
    run.finish({**RESULT, "instructions": {EVIL: EVIL}})
    html, page = report(run)
    assert "<script" not in html
    assert EVIL in page.text


def test_an_unfinished_run_has_a_page_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finished=False)
    _, page = report(run)
    assert "has not finished" in page.text
    assert "Learning curve" in page.text


def test_a_run_that_has_only_begun_has_a_page_too(tmp_path: Path) -> None:
    _, page = report(RunDir.create(tmp_path / "run", parse({})))
    assert "has not finished" in page.text


def test_an_arm_without_instructions_shows_which_cells_it_lacks(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", parse({"arm": "rl"}))
    scores = {"base_seed": 0.1, "base_evolved": None, "trained_seed": 0.5, "trained_evolved": None}
    run.finish({**RESULT, "arm": "rl", "scores": scores, "intervals": {}, "kl": None})
    _, page = report(run)
    assert "went from 10.0% to 50.0%" in page.text
    assert page.text.count("not part of this arm") == 2


def test_no_run_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no run directory"):
        write_report(tmp_path)


def test_the_headline_needs_a_beginning_and_an_end() -> None:
    none = dict.fromkeys(RESULT["scores"], None)
    assert "no evaluation" in headline({"scores": none})
    assert headline(RESULT).endswith("59.2%, the new weights alone 21.4%.")


def test_the_headline_is_about_what_ships() -> None:
    """After ``[distill]`` the weights are judged without the instruction that was folded in."""
    shipped = {"cell": "trained_seed", "instructions": SEED.instructions}
    text = headline({**RESULT, "shipped": shipped})
    assert "went from 3.1% to 21.4%" in text
    assert "without the new instruction, which alone reaches 59.2%, and 97.3% on" in text
    assert "went from 3.1% to 97.3%" in headline(RESULT)


def test_an_instruction_that_was_folded_into_the_weights_is_not_said_to_ship(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "plain")
    assert "What the program's language model is told" in report(run)[1].text
    run = make_run(tmp_path / "folded", finished=False)
    shipped = {"cell": "trained_seed", "instructions": dict(SEED.instructions)}
    run.finish({**RESULT, "shipped": shipped})
    text = report(run)[1].text
    assert "It was folded into the weights" in text
    assert "What the program's language model is told" not in text


def test_what_changed_in_an_instruction_is_marked() -> None:
    assert compared("Solve the\ntask now.", "Solve  the <b> now.") == (
        "Solve  the<del>\ntask</del><ins> &lt;b&gt;</ins> now."
    )


def test_an_instruction_that_is_mostly_new_is_shown_without_marks() -> None:
    assert compared("Solve the task.", "Reverse the <list>.") == "Reverse the &lt;list&gt;."


def test_the_path_to_a_candidate_runs_through_members_and_discarded_proposals() -> None:
    """SEED → LEFT (proposed, never a member) → BOTH; a cycle of parents ends the walk."""
    proposals = [{"id": LEFT.id, "parents": [SEED.id], "instructions": dict(LEFT.instructions)}]
    phi = Population((SEED, BOTH), {BOTH.id: {"p": 0.5}})
    known = family([population_record(0, phi, {"candidates": proposals})])
    path = path_to(BOTH.id, known)
    assert [step.id for step, _ in path] == [SEED.id, LEFT.id, BOTH.id]
    assert [step.mean for step, _ in path] == [None, None, 0.5]
    assert path[2][1]["solve"].endswith(", then exchange the first and the last.</ins>")
    circle = replace(known[SEED.id], parents=(BOTH.id,))
    assert len(path_to(BOTH.id, {**known, SEED.id: circle})) == 3
    assert path_to("unknown", known) == []


def test_numbers_read_as_people_write_them() -> None:
    assert [number(v) for v in (0, 1200, 12549.33, 0.25, 3e-5, -2.5)] == [
        "0",
        "1\u202f200",
        "12\u202f549",
        "0.25",
        "3e-05",
        "-2.5",
    ]
    assert [percent(v) for v in (0.5, 1.5)] == ["50.0%", "1.5"]
    assert [duration(s) for s in (4, 65, 3725)] == ["4 s", "1 min 5 s", "1 h 2 min"]


@given(st.floats(1e-9, 1e9))
def test_tick_steps_are_round_and_at_least_what_was_asked(raw: float) -> None:
    step = nice_step(raw)
    assert raw * 0.999 <= step <= raw * 5.001
    assert re.fullmatch(r"[125]\.0+e.*", f"{step:.6e}")


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_inside_the_axis(low: float, span: float) -> None:
    axis = Axis(low, low + span, 0, 100)
    assert axis.ticks
    assert all(-0.1 <= axis.at(t) <= 100.1 for t in axis.ticks)


points = st.lists(st.tuples(st.floats(0, 1e9), st.floats(-1e6, 1e6) | st.just(math.nan)))


@given(points, st.booleans())
def test_a_chart_is_well_formed_and_draws_inside_its_box(
    drawn: list[tuple[float, float]], unit: bool
) -> None:
    svg = line_chart([Series("<&>", tuple(drawn), "c1")], title="t", x="x", unit_interval=unit)
    finite = [p for p in drawn if math.isfinite(p[1])]
    assert (svg == "") == (not finite)
    if finite:
        circles = list(ElementTree.fromstring(svg).iter("circle"))
        assert len(circles) == len(finite)
        assert all(-1 <= float(c.attrib["cy"]) <= 261 for c in circles)
        assert all(-1 <= float(c.attrib["cx"]) <= 761 for c in circles)


def test_a_lineage_draws_each_candidate_and_where_it_comes_from(tmp_path: Path) -> None:
    """Cycle 1 keeps SEED and LEFT and rewrites LEFT into BOTH; 2 keeps LEFT and BOTH and
    rewrites BOTH; 3 keeps both: 2 + 2 + 2 kept, 1 + 1 rewritten."""
    tree = ElementTree.fromstring(lineage(make_run(tmp_path / "run").populations()))
    kinds = [path.attrib["class"] for path in tree.iter("path")]
    assert (kinds.count("edge"), kinds.count("edge rewritten")) == (6, 2)
    assert len(list(tree.iter("circle"))) == 11
