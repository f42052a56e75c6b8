"""The claims task: a consistent corpus, claims that are what they are labelled, honest credit."""

from __future__ import annotations

import copy
import json
import pickle
import re
import threading
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import dspy
import huggingface_hub.constants
import numpy as np
import pytest
from dspy.utils.dummies import DummyLM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fst_agents.scoring import Scorer
from programs.claims import ENTRY, ClaimsOptions, ClaimVerifier, build, exact, metric
from programs.claims import hover as real
from programs.claims.corpus import SHIPPED, Passage, corpus_lines, read_corpus
from programs.claims.generator import claims, false_value
from programs.claims.grading import WEIGHTS, Run
from programs.claims.outlines import KINDS, outlines, share_out
from programs.claims.phrases import LINKED, MADE_BY, ORDERED, STATED
from programs.claims.retrieval import MAX_TERMS, Retriever, load, top
from programs.claims.world import LINKS, SENTENCES, WORK_KINDS, world

NAMES = ["first_query", "second_query", "verdict"]
TASK = build(ClaimsOptions(train_size=300, val_size=60, test_size=60), seed=0)
EVERY = [*TASK.trainset, *TASK.valset, *TASK.testset]
CLAIMS = claims("train", 600, (1, 2, 3), seed=3)

GOLD = dspy.Example(
    id="g",
    claim="Kiln Gallery dates from 1970 and was designed by someone who was born in 1925.",
    kind="bridge",
    verdict="refuted",
    hops=[["Kiln Gallery"], ["Petra Dorran"]],
    evidence=[
        {"title": "Kiln Gallery", "sentence": "It was finished in 1970."},
        {"title": "Kiln Gallery", "sentence": "Petra Dorran drew the plans of Kiln Gallery."},
        {"title": "Petra Dorran", "sentence": "Born in 1917."},
    ],
    wrong_hop=2,
    explanation="The claim says '1925' where the passage on 'Petra Dorran' has '1917'.",
).with_inputs("claim")
RIGHT = {
    "first_query": "Kiln Gallery",
    "first_titles": ["Kiln Gallery", "Tithe Gallery"],
    "second_query": "Petra Dorran",
    "second_titles": ["Petra Dorran", "Mara Dorran"],
    "verdict": "refuted",
}


def judge(pred_name: str | None = None, **wrong: Any) -> dspy.Prediction:
    """Grade the right answers with some of them replaced."""
    return metric(GOLD, dspy.Prediction(**(RIGHT | wrong)), None, pred_name, None)


# --- world and corpus


def test_the_shipped_corpus_is_what_the_world_says() -> None:
    shipped = SHIPPED.read_text(encoding="utf-8")
    assert shipped.splitlines() == list(corpus_lines(world().values()))
    rows = [json.loads(line) for line in shipped.splitlines()]
    assert len({row["id"] for row in rows}) == len({row["title"] for row in rows}) == 352
    assert {row["title"]: row["text"] for row in rows} == {
        p.title: p.text for p in read_corpus(SHIPPED)
    }


def test_links_lead_to_entities_of_the_right_kind() -> None:
    for entity in world().values():
        for attribute, fact in entity.facts.items():
            assert fact.value in fact.sentence
            if attribute in LINKS:
                assert world()[fact.value].kind == LINKS[attribute]
        if entity.kind in WORK_KINDS:
            maker = world()[entity.facts["maker"].value]
            assert maker.facts["profession"].value.endswith(WORK_KINDS[entity.kind])
            age = int(entity.facts["year"].value) - int(maker.facts["year"].value)
            assert 25 <= age <= 55


def test_a_passage_does_not_name_what_leads_to_it() -> None:
    links = 0
    for entity in world().values():
        for attribute in LINKS.keys() & entity.facts.keys():
            links += 1
            assert entity.title not in world()[entity.facts[attribute].value].text
    assert links == 44 + 110 + 2 * 180


def test_every_fact_can_be_claimed_in_words() -> None:
    for kind, ways in SENTENCES.items():
        stated = set(STATED[kind]) | ({"profession"} if kind == "person" else set[str]())
        assert stated == set(ways)
        assert set(LINKED.get(kind, {})) == set(LINKS) & set(ways)
    assert set(MADE_BY) == set(WORK_KINDS)
    assert set(ORDERED) == set(SENTENCES) - {"river"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no passages"),
        ('{"title": "A", "text": "a"}\nnonsense\n', "line 2 .*no JSON"),
        ('{"title": "A"}\n', "line 1 .*expected an object with `title`"),
        ('["A", "a"]\n', "line 1 .*expected an object"),
        ('{"title": "A", "text": [1]}\n', "line 1 .*list of sentences"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words) as caught:
        read_corpus(path)
    assert "\n" not in str(caught.value)


# --- retrieval


def test_every_title_finds_its_passage_first() -> None:
    retriever = load(SHIPPED)
    assert all(retriever.search(title, 1)[0].title == title for title in world())


def test_rare_words_and_short_passages_count_more() -> None:
    passages = [
        Passage("aa", ("bb bb",)),
        Passage("bb", ("cc dd ee ff",)),
        Passage("cc", ("gg",)),
        Passage("gg", ("hh",)),
    ]
    retriever = Retriever(passages)
    assert [p.title for p in retriever.search("bb", 4)] == ["aa", "bb"]
    assert [p.title for p in retriever.search("CC?", 4)] == ["cc", "bb"]
    assert [p.title for p in retriever.search("aa gg", 4)] == ["aa", "cc", "gg"]


def test_equal_passages_come_in_the_order_of_the_corpus() -> None:
    passages = [Passage(f"title{i:02}", ("same words",)) for i in range(20)]
    found = Retriever(passages).search("same", 3)
    assert [p.title for p in found] == ["title00", "title01", "title02"]


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=30), st.integers(1, 40))
def test_the_best_are_those_of_a_stable_sort(scores: list[int], k: int) -> None:
    ranked = sorted((i for i, s in enumerate(scores) if s > 0), key=lambda i: -scores[i])
    assert top(np.array(scores, dtype=np.float32), k) == ranked[:k]


@given(st.text(max_size=200), st.integers(1, 400))
def test_any_query_finds_at_most_k_different_passages(query: str, k: int) -> None:
    found = [p.title for p in load(SHIPPED).search(query, k)]
    assert len(set(found)) == len(found) <= k


@pytest.mark.parametrize("query", ["", "  ", "?!", "the of and", "xyzzy plugh", "\ud800", "a"])
def test_a_query_that_shares_no_word_finds_nothing(query: str) -> None:
    assert load(SHIPPED).search(query, 5) == []


def test_of_an_endless_query_only_the_first_words_count() -> None:
    retriever = load(SHIPPED)
    noise = " ".join(f"word{i}" for i in range(MAX_TERMS))
    once = retriever.search("Kiln Gallery", 4)
    assert retriever.search("Kiln Gallery " * 50_000, 4) == once
    assert retriever.search(f"Kiln Gallery {noise}", 4) == once
    assert retriever.search(f"{noise} Kiln Gallery", 4) == []


def test_threads_and_copies_share_one_index() -> None:
    retriever = load(SHIPPED)
    assert copy.deepcopy(retriever) is retriever
    assert load(SHIPPED) is retriever
    wanted = {title: retriever.search(title, 4) for title in list(world())[:40]}
    seen: dict[str, Any] = {}
    threads = [
        threading.Thread(target=lambda t=title: seen.update({t: retriever.search(t, 4)}))
        for title in wanted
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == wanted


def test_searching_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Retriever(read_corpus(SHIPPED)).search("Kiln Gallery", 4)
    assert capfd.readouterr() == ("", "")


# --- generated claims


def test_half_of_the_claims_are_supported_and_none_occurs_twice() -> None:
    for split in (TASK.trainset, TASK.valset, TASK.testset):
        assert Counter(e.verdict for e in split)["supported"] == len(split) / 2
    assert len({e.id for e in EVERY}) == len({e.claim for e in EVERY}) == 420
    assert all(list(e.inputs().keys()) == ["claim"] for e in EVERY)
    assert {e.kind for e in EVERY} == set(KINDS)


def test_equal_seeds_give_equal_claims_whatever_the_other_sizes() -> None:
    small = build(ClaimsOptions(train_size=20, val_size=60, test_size=0), seed=0)
    other = build(ClaimsOptions(train_size=20, val_size=60, test_size=0), seed=1)
    assert [e.toDict() for e in small.valset] == [e.toDict() for e in TASK.valset]
    assert [e.id for e in small.valset] != [e.id for e in other.valset]


def test_splits_do_not_share_subjects() -> None:
    shared = share_out(0)
    titles = {split: {e.title for e in entities} for split, entities in shared.items()}
    assert sum(map(len, titles.values())) == len(set.union(*titles.values())) == 352 - 18
    kinds = {split: {e.kind for e in entities} for split, entities in shared.items()}
    assert set(map(frozenset, kinds.values())) == {frozenset({"person", "town", *WORK_KINDS})}
    for split, examples in zip(titles, (TASK.trainset, TASK.valset, TASK.testset), strict=True):
        assert {t for e in examples for t in e.hops[0]} <= titles[split]
        seconds = {t for e in examples for hop in e.hops[1:] for t in hop}
        assert {world()[t].kind for t in seconds - titles[split]} <= {"town", "river"}


def test_no_claim_has_its_opposite_beside_it() -> None:
    for kind in KINDS:
        every = outlines(kind, share_out(0)["val"])
        assert len(every) == len({(o.kind, frozenset(o.titles), o.attributes) for o in every})


def test_statements_are_true_but_for_the_fact_that_refutes_them() -> None:
    statements = [c for c in CLAIMS if c.kind in ("single", "bridge")]
    wrong_hops: Counter[int] = Counter()
    for claim in statements:
        # The sentence that links the hops is not stated, so it is not looked for in the claim.
        linked = claim.evidence[1] if claim.kind == "bridge" else None
        stated = [e for e in claim.evidence if e is not linked]
        facts = [
            next(f for f in world()[e.title].facts.values() if f.sentence == e.sentence)
            for e in stated
        ]
        said = [fact.value in claim.text for fact in facts]
        assert all(said) == (claim.verdict == "supported")
        assert sum(said) >= 1
        assert (claim.wrong_hop == 0) == all(said)
        if claim.kind == "bridge":
            assert claim.hops[1][0] not in claim.text
            assert claim.hops[1][0] in claim.evidence[1].sentence
            assert claim.wrong_hop == (0 if all(said) else 1 if said[1] else 2)
            wrong_hops[claim.wrong_hop] += 1
        false = re.search(r"says '?\"?(.+?)'?\"? where", claim.explanation)
        assert (false is not None and false[1] in claim.text) == (claim.verdict == "refuted")
    assert min(wrong_hops.values()) > 20


def test_comparisons_are_right_about_the_order() -> None:
    orders = {words: i for pair in ORDERED.values() for i, words in enumerate(pair)}
    comparisons = [c for c in CLAIMS if c.kind in ("comparison", "bridge_comparison")]
    makers = {
        form.format(title=e.title): e.facts["maker"].value
        for e in world().values()
        for kind, form in MADE_BY.items()
        if e.kind == kind
    }
    for claim in comparisons:
        said = next(words for words in orders if f" {words} " in claim.text)
        sides = claim.text.removesuffix(".").split(f" {said} ")
        sides = [side[0].lower() + side[1:] if side.startswith("The ") else side for side in sides]
        titles = [makers.get(s) or (f"T{s[1:]}" if s.startswith("the ") else s) for s in sides]
        first, second = (int(world()[title].facts["year"].value) for title in titles)
        holds = first < second if orders[said] == 0 else first > second
        assert holds == (claim.verdict == "supported")
        assert first != second
        assert (claim.wrong_hop == 0) == holds
        assert {t for hop in claim.hops for t in hop} >= set(titles)
    assert len(comparisons) > 100


def test_only_the_allowed_hops_are_drawn() -> None:
    for hops in ((1,), (2,), (3,), (1, 3)):
        drawn = claims("val", 40, hops, seed=0)
        assert {sum(map(len, c.hops)) for c in drawn} == set(hops)


@given(st.sampled_from(list(world().values())), st.integers())
def test_a_false_value_is_false_and_of_the_same_sort(entity: Any, seed: int) -> None:
    for attribute, fact in entity.facts.items():
        value = false_value(entity, attribute, Random(seed))
        assert value != fact.value
        if attribute == "year":
            assert 2 <= abs(int(value) - int(fact.value)) <= 12
        else:
            assert any(e.facts.get(attribute, fact).value == value for e in world().values())


def test_titles_find_what_claims_as_queries_do_not() -> None:
    retriever = load(SHIPPED)
    by_title = by_claim = 0
    for claim in CLAIMS:
        gold = {t for hop in claim.hops for t in hop}
        hops = {p.title for hop in claim.hops for p in retriever.search(" ".join(hop), 4)}
        by_title += gold <= hops
        by_claim += gold <= {p.title for p in retriever.search(claim.text, 4)}
    assert by_title > 0.98 * len(CLAIMS)
    assert by_claim < 0.6 * len(CLAIMS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train_size": 100_000}, "train_size: got 100000, but there are only"),
        ({"test_size": 3000, "hops": [1]}, r"test_size: got 3000, .*hops = \[1\]"),
        ({"hops": [2, 4]}, "hops: got 4, expected numbers from 1 to 3"),
        ({"source": "hover"}, "corpus: not set"),
        ({"source": "hover", "corpus": "absent.jsonl"}, "corpus: no file '.*absent.jsonl'"),
    ],
)
def test_options_that_cannot_be_met_are_refused(settings: dict[str, Any], words: str) -> None:
    options = ClaimsOptions.model_validate_json(json.dumps(settings), strict=True)
    with pytest.raises(ValueError, match=words) as caught:
        build(options, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"k": 0}, {"hops": []}, {"hops": [5]}, {"source": "web"}])
def test_options_out_of_bounds_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClaimsOptions.model_validate(settings)


# --- metric


def test_the_labels_score_one_and_say_so() -> None:
    for gold in EVERY:
        seconds = [t for hop in gold.hops[1:] for t in hop]
        pred = dspy.Prediction(
            first_query="q", first_titles=gold.hops[0], second_query="q", second_titles=seconds,
            verdict=gold.verdict,
        )  # fmt: skip
        result = metric(gold, pred)
        assert result.score == exact(gold, pred) == 1.0
        assert set(result.predictor_scores.values()) == {1.0}
        assert ("second_query" in result.predictor_scores) == bool(seconds)
        assert result.feedback.startswith("Everything is right.")


@pytest.mark.parametrize(
    ("wrong", "score", "own"),
    [
        ({}, 1.0, {"first_query": 1.0, "second_query": 1.0, "verdict": 1.0}),
        ({"verdict": " **Refuted**.\n"}, 1.0, {"first_query": 1, "second_query": 1, "verdict": 1}),
        ({"verdict": "false"}, 0.5, {"first_query": 1, "second_query": 1, "verdict": 0}),
        ({"second_titles": []}, 0.75, {"first_query": 1, "second_query": 0, "verdict": 1}),
        # The second query can make up for the first; what it could not know is not asked of it.
        (
            {"first_titles": ["Tithe Gallery"], "second_titles": ["Kiln Gallery"]},
            0.75,
            {"first_query": 0, "second_query": 1, "verdict": 1},
        ),
        # Found by luck: that counts for the program, but it is not what the second query was for.
        ({"first_titles": []}, 0.75, {"first_query": 0, "second_query": 0, "verdict": 1}),
        # Nothing was left to find.
        (
            {"first_titles": ["Petra Dorran", "Kiln Gallery"], "second_titles": []},
            1.0,
            {"first_query": 1, "verdict": 1},
        ),
    ],
)
def test_scores_by_hand(wrong: dict[str, Any], score: float, own: dict[str, float]) -> None:
    result = judge(**wrong)
    assert result.score == score
    assert result.predictor_scores == own
    assert exact(GOLD, dspy.Prediction(**(RIGHT | wrong))) == float(score == 1.0)


def test_three_passages_count_a_third_each() -> None:
    gold = dspy.Example(GOLD, hops=[["A", "B"], ["C"]], evidence=[{"title": "A", "sentence": "C."}])
    pred = dspy.Prediction(first_titles=["A"], second_titles=["C"], verdict="refuted")
    result = metric(gold, pred)
    assert result.objective_scores == {"verdict": 1.0, "recall": pytest.approx(2 / 3)}
    assert result.score == pytest.approx(5 / 6)
    assert result.predictor_scores == {"first_query": 0.5, "second_query": 0.5, "verdict": 1.0}


def test_weights_sum_to_one() -> None:
    assert sum(WEIGHTS.values()) == 1.0


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("first_query", {}, "found 'Kiln Gallery', 'Tithe Gallery'; of these, 'Kiln Gallery' is"),
        ("first_query", {"first_titles": ["X"]}, "missed 'Kiln Gallery', which the claim names."),
        ("first_query", {"first_query": " "}, "The query was empty and found nothing"),
        ("first_query", {"first_titles": []}, "found nothing: no passage shares a word with it"),
        (
            "second_query",
            {"second_titles": ["X"]},
            "none of these is needed. It missed 'Petra Dorran', to which the passage on 'Kiln "
            'Gallery\' leads: "Petra Dorran drew the plans of Kiln Gallery."',
        ),
        (
            "second_query",
            {"first_titles": ["Kiln Gallery", "Petra Dorran"]},
            "The first query had found everything that is needed",
        ),
        ("verdict", {}, "Verdict 'refuted' is right. Evidence: Kiln Gallery: \"It was finished"),
        (
            "verdict",
            {"verdict": "supported"},
            "Verdict was 'supported'; expected 'refuted': the passage of hop 2 refutes it.",
        ),
        ("verdict", {"verdict": "maybe"}, "'maybe', which is none of 'supported', 'refuted'"),
        ("verdict", {"second_titles": []}, "lacked 'Petra Dorran': without them"),
        ("verdict", {"verdict": "supported"}, "'1925' where the passage on 'Petra Dorran' has '19"),
        (None, {"second_titles": []}, "The first mistake is made by second_query.\nfirst_query: "),
    ],
)
def test_feedback_says_what_went_wrong(name: str | None, wrong: dict[str, Any], words: str) -> None:
    assert words in judge(name, **wrong).feedback


ANYTHING = st.one_of(
    st.text(max_size=30),
    st.none(),
    st.integers(),
    st.lists(st.one_of(st.text(max_size=5), st.integers(), st.none()), max_size=4),
    st.sampled_from(["refuted", "Kiln Gallery", "Petra Dorran"]),
)


@given(
    st.dictionaries(st.sampled_from(list(RIGHT)), ANYTHING), st.sampled_from([None, "x", *NAMES])
)
def test_whatever_is_answered_gets_a_score_and_feedback(
    answer: dict[str, Any], name: str | None
) -> None:
    result = metric(GOLD, dspy.Prediction(**answer), None, name, None)
    assert 0.0 <= result.score <= 1.0
    assert all(0.0 <= score <= 1.0 for score in result.predictor_scores.values())
    assert set(result.predictor_scores) <= set(NAMES)
    assert result.feedback


def test_the_scorer_reads_it_as_a_metric_of_five_arguments() -> None:
    scorer = Scorer(metric, score_range=TASK.score_range, predictors=NAMES)
    assert scorer.per_predictor
    assert scorer(GOLD, dspy.Prediction(**RIGHT), []).score == 1.0


# --- program


def scripted(*answers: dict[str, str]) -> Any:
    return dspy.context(lm=DummyLM(list(answers)))


def bridge() -> dspy.Example:
    return next(e for e in TASK.trainset if e.kind == "bridge" and e.verdict == "refuted")


def test_the_program_searches_twice_and_decides() -> None:
    gold = bridge()
    first, second = gold.hops[0][0], gold.hops[1][0]
    with scripted({"query": first}, {"query": second}, {"verdict": "refuted"}):
        trace: list[Any] = []
        with dspy.context(trace=trace):
            made: Any = TASK.program(claim=gold.claim)
    assert [name for name, _ in TASK.program.named_predictors()] == NAMES
    assert (made.first_query, made.second_query, made.verdict) == (first, second, "refuted")
    assert (made.first_titles[0], made.second_titles[0]) == (first, second)
    assert len(made.first_titles) == len(made.second_titles) == 4
    assert metric(gold, made).score == exact(gold, made) == 1.0
    seen = [inputs for _, inputs, _ in trace]
    assert [list(inputs) for inputs in seen] == [["claim"], *[["claim", "passages"]] * 2]
    assert len(seen[1]["passages"]) == 4
    assert seen[2]["passages"][:4] == seen[1]["passages"]
    assert len(set(seen[2]["passages"])) == len(seen[2]["passages"]) > 4
    assert f"{second} | {world()[second].text}" in seen[2]["passages"]


def test_searches_that_find_nothing_do_not_stop_the_program() -> None:
    gold = bridge()
    with scripted({"query": "?"}, {"query": "xyzzy"}, {"verdict": "supported"}):
        made: Any = TASK.program(claim=gold.claim)
    assert (made.first_titles, made.second_titles) == ([], [])
    assert metric(gold, made).score == 0.0


def test_copies_share_the_index_and_it_is_not_saved(tmp_path: Path) -> None:
    program: Any = TASK.program
    copied: Any = program.deepcopy()
    assert copied.retriever is program.retriever
    assert copied.verdict is not program.verdict
    assert copy.deepcopy(program).retriever is program.retriever
    program.save(tmp_path / "program.json")
    saved = json.loads((tmp_path / "program.json").read_text(encoding="utf-8"))
    assert set(saved) - {"metadata"} == set(NAMES)
    other = ClaimVerifier(program.retriever, 2)
    other.load(tmp_path / "program.json")
    assert other.dump_state() == program.dump_state()


def test_an_index_survives_pickling() -> None:
    retriever = load(SHIPPED)
    again = pickle.loads(pickle.dumps(retriever))
    assert again.search("Kiln Gallery", 4) == retriever.search("Kiln Gallery", 4)


def test_the_catalogue_s_entry() -> None:
    assert (ENTRY.name, ENTRY.options, ENTRY.build) == ("claims", ClaimsOptions, build)
    assert json.loads(json.dumps(ENTRY.facts()))["predictors"] == NAMES


# --- HoVer


PASSAGES = {
    "Ålesund": ["Ålesund is a town.", " It lies by the sea."],
    "Amund Sten": ["Amund Sten was born in Ålesund.", " He built ships."],
    "Skarv": ["Skarv is a ship.", " Amund Sten built it."],
}


def hover_row(number: int, **changes: Any) -> dict[str, Any]:
    """A claim of two hops; titles in Unicode's decomposed form, as HoVer may have them."""
    facts = [{"key": "A\u030alesund", "value": 1}, {"key": "Amund Sten", "value": 0}]
    return {
        "id": number, "uid": f"u{number}", "claim": f"Claim {number}.", "supporting_facts": facts,
        "label": number % 2, "num_hops": 2, "hpqa_id": f"q{number}", **changes,
    }  # fmt: skip


def save_hover(folder: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]]) -> Path:
    import datasets

    for split, rows in {"train": train, "validation": validation}.items():
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(path)
    return folder


@pytest.fixture
def options(tmp_path: Path) -> ClaimsOptions:
    """HoVer in small: 8 claims to train on, 6 to validate on, and a corpus of three passages."""
    corpus = tmp_path / "wiki.jsonl"
    rows = [{"title": title, "text": text} for title, text in PASSAGES.items()]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    unusable = [
        hover_row(10, num_hops=3),
        hover_row(11, hpqa_id="q1"),
        hover_row(12, label=-1),
        hover_row(13, supporting_facts=[{"key": "Elsewhere", "value": 0}]),
    ]
    train = [hover_row(i) for i in range(8)] + unusable
    validation = [hover_row(i) for i in range(20, 26)]
    dataset = save_hover(tmp_path / "hover", train, validation)
    return ClaimsOptions(
        source="hover", dataset=str(dataset), corpus=corpus, hops=(2,), train_size=7, val_size=3,
        test_size=3,
    )  # fmt: skip


def test_hover_s_claims_are_read_with_their_evidence(options: ClaimsOptions) -> None:
    task = build(options, seed=0)
    every = [*task.trainset, *task.valset, *task.testset]
    assert [len(s) for s in (task.trainset, task.valset, task.testset)] == [7, 3, 3]
    assert len({e.id for e in every}) == len({e.claim for e in every}) == 13
    numbers = {int(e.claim.removeprefix("Claim ").rstrip(".")) for e in task.trainset}
    assert len(numbers - {0, 1, 2, 3, 4, 5, 6, 7}) == (11 in numbers)
    assert not {1, 11} <= numbers
    gold: Any = task.valset[0]
    odd = int(gold.claim.removeprefix("Claim ").rstrip(".")) % 2
    assert gold.verdict == ("supported" if odd else "refuted")
    assert gold.hops == [["Ålesund", "Amund Sten"]]
    assert gold.evidence == [
        {"title": "Ålesund", "sentence": "It lies by the sea."},
        {"title": "Amund Sten", "sentence": "Amund Sten was born in Ålesund."},
    ]
    with scripted({"query": "skarv ship"}, {"query": "Amund Sten"}, {"verdict": gold.verdict}):
        made: Any = task.program(claim=gold.claim)
    assert set(made.first_titles) == {"Skarv"}
    assert made.second_titles == ["Amund Sten", "Skarv"]
    assert metric(gold, made).objective_scores == {"verdict": 1.0, "recall": 0.5}
    assert metric(gold, made).predictor_scores == {
        "first_query": 0.0,
        "second_query": 0.5,
        "verdict": 1.0,
    }
    assert exact(gold, made) == 0.0
    assert Run(gold, made).due == ["Ålesund", "Amund Sten"]


def test_hover_follows_the_seed(options: ClaimsOptions) -> None:
    first, again, other = ([e.id for e in build(options, s).trainset] for s in (0, 0, 1))
    assert first == again != other


def test_too_few_of_hover_s_claims_are_refused(options: ClaimsOptions) -> None:
    many = options.model_copy(update={"train_size": 9})
    with pytest.raises(ValueError, match=r"train_size: got 9, .*only 8 claims .*train split"):
        build(many, seed=0)
    many = options.model_copy(update={"test_size": 4})
    with pytest.raises(ValueError, match=r"val_size \+ test_size: got 7, .*only 6"):
        build(many, seed=0)


def test_a_dataset_that_is_not_there_or_is_not_hover_is_refused(
    options: ClaimsOptions, tmp_path: Path
) -> None:
    absent = options.model_copy(update={"dataset": "nobody/no-such-hover"})
    with pytest.raises(ValueError, match="hf download nobody/no-such-hover --repo-type dataset"):
        build(absent, seed=0)
    absent = options.model_copy(update={"dataset": "no/such/folder"})
    with pytest.raises(ValueError, match="'no/such/folder' is neither a folder nor in"):
        build(absent, seed=0)
    empty = options.model_copy(update={"dataset": str(tmp_path)})
    (tmp_path / "hover" / "data" / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match="no Parquet file of the train split"):
        build(empty, seed=0)
    strange = save_hover(tmp_path / "strange", [{"claim": "x"}], [{"claim": "x"}])
    with pytest.raises(ValueError, match="has no field 'uid'; expected HoVer's"):
        build(options.model_copy(update={"dataset": str(strange)}), seed=0)


def test_a_dataset_is_found_in_the_hugging_face_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the layout that ``hf download`` leaves, without asking the network."""
    root = tmp_path / "datasets--someone--hover"
    snapshot = save_hover(root / "snapshots" / ("0" * 40), [hover_row(0)], [hover_row(1)])
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert real.find("someone/hover") == snapshot
