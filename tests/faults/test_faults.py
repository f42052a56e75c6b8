"""Everything that can go wrong, made to go wrong: the run survives it, or it stops with its state
saved and goes on later. No rollout that does not count reaches the trainer. The table at the end
says what happened.

``make test-faults`` runs all of it, ``make test`` what takes seconds.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable

import pytest
from catalog import FAULTS
from faults import FAULT, Fault, Workshop

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        pytest.param(number, fault, marks=fault.marks, id=f"{fault.name}, {fault.where}")
        for number, fault in enumerate(FAULTS)
    ],
)
def test_what_is_promised_of_a_fault(
    number: int,
    fault: Fault,
    workshop: Workshop,
    record_property: Callable[[str, object], None],
) -> None:
    seen = None
    try:
        seen = fault.drive(workshop)
    finally:
        # plain values: they may have to travel from another process
        told = None if seen is None else (seen.happened, seen.lost)
        record_property(FAULT, (number, fault.name, fault.where, told))


def test_no_two_faults_are_the_same() -> None:
    names = [(fault.name, fault.where) for fault in FAULTS]
    assert len(set(names)) == len(names)
