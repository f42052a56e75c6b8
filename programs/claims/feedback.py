"""What to say of a run: which passages a query missed and how to know of them, and the evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from programs.claims.grading import VERDICTS, Run


def comment(run: Run, of: str | None = None) -> str:
    """Feedback on one predictor, or on all three with the first mistake named."""
    if of in _COMMENTS:
        return _COMMENTS[of](run)
    wrong = [name for name, score in run.predictors.items() if score < 1]
    first = f"The first mistake is made by {wrong[0]}." if wrong else "Everything is right."
    return "\n".join([first, *(f"{name}: {say(run)}" for name, say in _COMMENTS.items())])


def on_first(run: Run) -> str:
    """What the first query found of the first hop."""
    missed = [title for title in run.hops[0] if title not in run.found("first")]
    return " ".join([_results(run, "first"), *(_missed(run, title) for title in missed)])


def on_second(run: Run) -> str:
    """What the second query found of what was left to find."""
    if not run.due:
        return f"{_results(run, 'second')} The first query had found everything that is needed."
    missed = [title for title in run.due if title not in run.found("second")]
    return " ".join([_results(run, "second"), *(_missed(run, title) for title in missed)])


def on_verdict(run: Run) -> str:
    """Whether the verdict is right, on what evidence, and whether that had been found."""
    expected = str(run.gold.verdict)
    said = [f"Verdict {expected!r} is right." if run.right else _wrong(run, expected)]
    said.append(f"Evidence: {_evidence(run)}")
    if run.gold.explanation:
        said.append(str(run.gold.explanation))
    if run.missing:
        said.append(
            f"The passages that it was given lacked {_list(run.missing)}: without them the verdict "
            "is a guess."
        )
    return " ".join(said)


_COMMENTS: Final[dict[str | None, Callable[[Run], str]]] = {
    "first_query": on_first,
    "second_query": on_second,
    "verdict": on_verdict,
}


def _results(run: Run, which: str) -> str:
    query, found = _short(run.query(which)), run.found(which)
    if not run.query(which).strip():
        return "The query was empty and found nothing."
    if not found:
        return f"Query {query!r} found nothing: no passage shares a word with it."
    wanted = [title for title in run.titles if title in found]
    verb = "is" if len(wanted) == 1 else "are"
    needed = f"of these, {_list(wanted)} {verb} needed" if wanted else "none of these is needed"
    return f"Query {query!r} found {_list(found)}; {needed}."


def _missed(run: Run, title: str) -> str:
    lead = run.lead(title)
    if title.casefold() in str(run.gold.claim).casefold():
        why = "which the claim names."
    elif lead is not None:
        why = f'to which the passage on {lead[0]!r} leads: "{lead[1]}"'
    else:
        why = "which the claim needs."
    return f"It missed {title!r}, {why}"


def _wrong(run: Run, expected: str) -> str:
    stranger = "" if run.verdict in VERDICTS else f", which is none of {_list(VERDICTS)}"
    hop = run.gold.wrong_hop if len(run.hops) > 1 else 0
    where = f": the passage of hop {hop} refutes it" if hop else ""
    return f"Verdict was {_short(run.verdict)!r}{stranger}; expected {expected!r}{where}."


def _evidence(run: Run) -> str:
    return " ".join(f'{e["title"]}: "{e["sentence"]}"' for e in run.gold.evidence)


def _list(titles: Sequence[str]) -> str:
    return ", ".join(map(repr, titles))


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."
