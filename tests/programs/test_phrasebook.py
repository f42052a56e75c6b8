"""The phrase book: operations, wordings, and the split into trained and held-out pairs."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs.micro import phrasebook
from programs.micro.phrasebook import COURTESIES, OPERATIONS, VAGUE

ops_lists = st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=3)
digit_lists = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("reverse", (0, 9, 1, 7, 4)),
        ("sort_ascending", (0, 1, 4, 7, 9)),
        ("sort_descending", (9, 7, 4, 1, 0)),
        ("increment", (5, 8, 2, 0, 1)),
        ("decrement", (3, 6, 0, 8, 9)),
        ("double", (8, 4, 2, 8, 0)),
        ("complement", (5, 2, 8, 0, 9)),
        ("rotate_left", (7, 1, 9, 0, 4)),
        ("rotate_right", (0, 4, 7, 1, 9)),
        ("swap_ends", (0, 7, 1, 9, 4)),
    ],
)
def test_each_operation_on_one_list(op: str, expected: tuple[int, ...]) -> None:
    assert phrasebook.apply((op,), (4, 7, 1, 9, 0)) == expected


def test_operations_apply_from_left_to_right() -> None:
    assert phrasebook.apply(("rotate_left", "swap_ends"), (4, 7, 1, 9)) == (4, 1, 9, 7)
    assert phrasebook.apply((), (4, 7, 1, 9)) == (4, 7, 1, 9)


@given(ops_lists, digit_lists)
def test_operations_keep_the_length_and_stay_digits(ops: list[str], digits: list[int]) -> None:
    result = phrasebook.apply(ops, digits)
    assert len(result) == len(digits)
    assert set(result) <= set(range(10))


def test_an_unknown_operation_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'shuffle'.*reverse.*swap_ends"):
        phrasebook.apply(("reverse", "shuffle"), (1, 2))


@given(ops_lists, st.integers(0, 10_000))
def test_parse_reads_back_what_phrase_wrote(ops: list[str], variant: int) -> None:
    assert phrasebook.parse(phrasebook.phrase(ops, variant)) == tuple(ops)


@given(ops_lists, st.integers(0, 10_000), st.sampled_from(COURTESIES))
def test_parse_tolerates_case_space_and_courtesies(
    ops: list[str], variant: int, courtesy: str
) -> None:
    text = courtesy.format(phrasebook.phrase(ops, variant))
    assert phrasebook.parse(f"  {text.upper()}\n".replace(" ", "  ")) == tuple(ops)


@pytest.mark.parametrize("text", [*VAGUE, "", "reverse", "reverse the digits, then dance."])
def test_parse_understands_nothing_in_vague_or_foreign_text(text: str) -> None:
    assert phrasebook.parse(text) is None


def test_wordings_are_all_different() -> None:
    every = [phrasebook.phrase((), i) for i in range(phrasebook.variants(()))]
    for ops in [*((op,) for op in OPERATIONS), *phrasebook.pairs()]:
        every += [phrasebook.phrase(ops, i) for i in range(phrasebook.variants(ops))]
    assert len(set(every)) == len(every) == len(VAGUE) + 10 * 3 + 90 * 18


def test_the_split_holds_out_both_orders_and_trains_every_operation_in_both_places() -> None:
    trained, held_out = phrasebook.trained_pairs(), phrasebook.held_out_pairs()
    assert (len(trained), len(held_out)) == (62, 28)
    assert set(trained) | set(held_out) == set(phrasebook.pairs())
    for place in (0, 1):
        counts = Counter(pair[place] for pair in trained)
        assert set(counts) == set(OPERATIONS)
        assert min(counts.values()) >= 3
    assert all((b, a) in held_out for a, b in held_out)


def test_no_held_out_pair_collapses_or_is_a_trained_function_in_other_words() -> None:
    assert not any(phrasebook.collapses(pair) for pair in phrasebook.held_out_pairs())
    assert not any(
        phrasebook.equivalent(pair, trained)
        for pair in phrasebook.held_out_pairs()
        for trained in phrasebook.trained_pairs()
    )


VALUES, SORTS = phrasebook.OPERATIONS[3:7], phrasebook.OPERATIONS[1:3]
PLACES = tuple(set(OPERATIONS) - {*VALUES, *SORTS})


def test_what_is_held_out_are_combinations_not_kinds_of_combination() -> None:
    """Of an operation's partners of a kind with which it makes something new, at least half,
    rounded down, were trained."""
    held_out = phrasebook.held_out_pairs()
    for operation in OPERATIONS:
        for kind in (VALUES, SORTS, PLACES):
            pairs = [(operation, other) for other in kind if other != operation]
            new = [
                p for p in pairs if not (phrasebook.collapses(p) or phrasebook.collapses(p[::-1]))
            ]
            trained = [pair for pair in new if pair not in held_out]
            assert len(trained) >= len(new) // 2, (operation, kind)
    twice = [pair for pair in held_out if set(pair) <= set(PLACES)]
    assert sorted(twice) == [("rotate_left", "swap_ends"), ("swap_ends", "rotate_left")]


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (("increment", "decrement"), True),
        (("reverse", "sort_ascending"), True),
        (("sort_descending", "reverse"), True),
        (("sort_ascending", "increment"), False),
        (("rotate_left", "swap_ends"), False),
    ],
)
def test_pairs_that_collapse_to_less(pair: tuple[str, str], expected: bool) -> None:
    assert phrasebook.collapses(pair) is expected


def test_commuting_pairs_are_equivalent() -> None:
    assert phrasebook.equivalent(("increment", "reverse"), ("reverse", "increment"))
    assert not phrasebook.equivalent(("increment", "double"), ("double", "increment"))
