"""What the fast optimizer relies on in gepa 0.1: behaviour that no signature promises.

If one of these fails after an upgrade, read optimizers/fast_gepa.py before mending the test.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from gepa.api import optimize
from gepa.core.adapter import EvaluationBatch, ProposalFn
from gepa.core.state import GEPAState, ValsetEvaluation
from gepa.proposer.base import CandidateProposal
from gepa.proposer.merge import find_common_ancestor_pair
from gepa.proposer.reflective_mutation.reflection_lm import ReflectionProposal
from gepa.strategies.component_selector import RoundRobinReflectionComponentSelector

from optimizers.gepa_adapter import LIFT

State = GEPAState[str, int]
ANCHOR = ["a", "b", "c", "d"]


class Adapter:
    """Scores the number in the text; says which way each evaluation came in."""

    propose_new_texts: ProposalFn | None = None

    def __init__(self, score: Callable[[str, str], float] | None = None) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self._score = score if score is not None else lambda text, item: float(text)

    def evaluate(
        self, batch: list[str], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[str, str]:
        self.calls.append(("evaluate", candidate["p"], len(batch)))
        return self._batch(batch, candidate)

    def batch_evaluate(
        self, items: list[tuple[dict[str, str], list[str]]]
    ) -> list[EvaluationBatch[str, str]]:
        self.calls += [("batch", c["p"], len(batch)) for c, batch in items]
        return [self._batch(batch, candidate) for candidate, batch in items]

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],
        eval_batch: EvaluationBatch[str, str],
        components_to_update: list[str],
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {name: [{"Feedback": "higher"}] for name in components_to_update}

    def _batch(self, batch: list[str], candidate: dict[str, str]) -> EvaluationBatch[str, str]:
        scores = [self._score(candidate["p"], item) for item in batch]
        return EvaluationBatch(list(batch), scores, list(batch))


class Reflection:
    def __init__(self, *texts: str | None) -> None:
        self._texts = list(texts)

    def reflect(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> tuple[ReflectionProposal, Reflection]:
        text = self._texts.pop(0) if self._texts else None
        return ReflectionProposal({} if text is None else {"p": text}), self


class Accept:
    def __init__(self, verdict: bool = True) -> None:
        self.seen: list[CandidateProposal[int]] = []
        self._verdict = verdict

    def should_accept(self, proposal: CandidateProposal[int], state: State) -> bool:
        self.seen.append(proposal)
        return self._verdict


class Log:
    def log(self, message: str) -> None: ...


def run(
    adapter: Adapter,
    reflection: Reflection,
    stop: Callable[[State], bool],
    accept: Accept | None = None,
) -> None:
    def stopper(gepa_state: State) -> bool:
        return stop(gepa_state)

    optimize(
        seed_candidate={"p": "0"},
        trainset=ANCHOR,
        adapter=adapter,
        reflection_strategy=reflection,
        reflection_minibatch_size=2,
        acceptance_criterion=Accept() if accept is None else accept,
        stop_callbacks=stopper,
        logger=Log(),
        track_best_outputs=False,
        perfect_score=100.0,
    )


def after(iterations: int) -> Callable[[State], bool]:
    return lambda state: state.i + 1 >= iterations


def test_stop_callback_comes_before_the_first_iteration_and_before_each_further_one() -> None:
    seen: list[tuple[int, int]] = []

    def stop(state: State) -> bool:
        seen.append((state.i, len(state.program_candidates)))
        return state.i + 1 >= 2

    run(Adapter(), Reflection("1", "2"), stop)
    assert seen == [(-1, 1), (0, 2), (1, 3)]


def test_what_the_stop_callback_raises_comes_through() -> None:
    def stop(state: State) -> bool:
        raise ConnectionError("enough")

    with pytest.raises(ConnectionError, match="enough"):
        run(Adapter(), Reflection(), stop)


def test_members_added_to_the_live_state_become_parents() -> None:
    """The added one is best everywhere, so Pareto selection can pick nobody else."""

    def stop(state: State) -> bool:
        if len(state.program_candidates) == 1:
            rows = dict.fromkeys(range(4), 5.0)
            state.update_state_with_new_program([], {"p": "5"}, ValsetEvaluation({}, rows), None, 0)
        return state.i + 1 >= 1

    accept = Accept()
    run(Adapter(), Reflection("6"), stop, accept)
    assert accept.seen[0].parent_program_ids == [1]


def test_seed_goes_through_evaluate_and_all_else_through_batch_evaluate() -> None:
    adapter = Adapter()
    run(adapter, Reflection("1"), after(1))
    assert adapter.calls == [
        ("evaluate", "0", 4),
        ("batch", "0", 2),
        ("batch", "1", 2),
        ("batch", "1", 4),
    ]


def test_a_rejected_child_is_not_run_on_the_anchor_set() -> None:
    adapter, accept = Adapter(), Accept(verdict=False)
    run(adapter, Reflection("1"), after(1), accept)
    assert adapter.calls[-1] == ("batch", "1", 2)
    assert len(accept.seen) == 1
    assert accept.seen[0].subsample_scores_before == [0.0, 0.0]
    assert accept.seen[0].subsample_scores_after == [1.0, 1.0]
    assert accept.seen[0].candidate == {"p": "1"}


def test_reflection_without_new_texts_costs_no_rollout() -> None:
    adapter = Adapter()
    run(adapter, Reflection(None, None), after(2))
    assert {text for _, text, _ in adapter.calls} == {"0"}


def test_nan_enters_no_front_and_can_leave_the_scores() -> None:
    fronts: list[dict[int, set[int]]] = []

    def stop(state: State) -> bool:
        fronts.append({k: set(v) for k, v in state.program_at_pareto_front_valset.items()})
        for row in state.prog_candidate_val_subscores:
            for key in [k for k, score in row.items() if math.isnan(score)]:
                del row[key]
        assert all(math.isfinite(mean) for mean in state.program_full_scores_val_set)
        return state.i + 1 >= 2

    run(
        Adapter(lambda text, item: math.nan if (text, item) == ("9", "c") else float(text)),
        Reflection("9", "9"),
        stop,
    )
    assert fronts[1] == {0: {1}, 1: {1}, 2: {0}, 3: {1}}


def test_round_robin_follows_the_names_and_pointers_of_the_state() -> None:
    state: State = GEPAState({"p": "0", "q": "0", "r": "0"}, ValsetEvaluation({}, {0: 0.0}))
    state.list_of_named_predictors = ["q", "r"]
    state.named_predictor_id_to_update_next_for_program_candidate = [1]
    turns = [RoundRobinReflectionComponentSelector()(state, [], [], 0, {}) for _ in range(3)]
    assert turns == [["r"], ["q"], ["r"]]


def test_merge_fails_on_an_ancestor_that_scores_zero_but_not_on_one_that_is_lifted() -> None:
    """Why scores are lifted: gepa draws ancestor 0 of children 1 and 2 with its mean as weight."""
    texts = [{"p": "0", "q": "0"}, {"p": "1", "q": "0"}, {"p": "0", "q": "1"}]

    def find(ancestor_mean: float) -> tuple[int, int, int] | None:
        return find_common_ancestor_pair(
            random.Random(0), [[None], [0], [0]], [1, 2], ([], []), [ancestor_mean, 1, 1], texts
        )

    with pytest.raises(ValueError, match="must be greater than zero"):
        find(0.0)
    assert find(LIFT) == (1, 2, 0)
