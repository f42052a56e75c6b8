"""HoVer (Jiang et al. 2020, arXiv 2011.03088) from the Hugging Face cache; nothing is fetched.

Training claims come from its ``train`` split, validation and test claims from its ``validation``
split (its own test split has no labels), one claim of each HotpotQA question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from programs.claims.corpus import Passage, normal
from programs.claims.generator import Claim, Evidence, Verdict

LABELS: Final[Mapping[Any, Verdict]] = {
    1: "supported",
    0: "refuted",
    "SUPPORTED": "supported",
    "NOT_SUPPORTED": "refuted",
}
FIELDS: Final = ("uid", "claim", "supporting_facts", "label", "num_hops", "hpqa_id")


def claims(
    dataset: str,
    sizes: Mapping[str, int],
    hops: Sequence[int],
    seed: int,
    passages: Sequence[Passage],
) -> dict[str, list[Claim]]:
    """Draw claims whose gold passages are all in the corpus.

    HoVer does not say which title leads to which, so all of a claim's titles form one hop.

    Args:
        dataset: a name in the Hugging Face cache, or a folder with its Parquet files.
        sizes: ``train``, ``val`` and ``test`` → number of claims.
        hops: allowed numbers of hops, of 2 to 4.

    Returns:
        Split → claims.

    Raises:
        ValueError: the dataset is absent or is not HoVer, or has fewer claims than asked for.
    """
    folder = find(dataset)
    rng = Random(f"claims/{seed}/hover")
    known = {passage.title: passage for passage in passages}
    drawn: dict[str, list[Claim]] = {}
    used: set[str] = set()
    for source, splits in (("train", ("train",)), ("validation", ("val", "test"))):
        wanted = sum(sizes[split] for split in splits)
        rows = list(_rows(folder, source)) if wanted else []
        rng.shuffle(rows)
        usable = _usable(rows, hops, known, used)
        found = [claim for claim, _ in zip(usable, range(wanted), strict=False)]
        if len(found) < wanted:
            keys = " + ".join(f"{split}_size" for split in splits)
            raise ValueError(
                f"{keys}: got {wanted}, but {dataset!r} has only {len(found)} claims with "
                f"hops = {sorted(set(hops))} in its {source} split whose passages are all in the "
                "corpus; ask for fewer, allow other hops, or give a larger corpus"
            )
        for split in splits:
            drawn[split], found = found[: sizes[split]], found[sizes[split] :]
    return drawn


def find(dataset: str) -> Path:
    """The folder of a dataset: itself, or where the Hugging Face cache has it.

    Raises:
        ValueError: it is in neither place.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    folder = Path(dataset).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(dataset, repo_type="dataset", local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ValueError(
            f"dataset: {dataset!r} is neither a folder nor in the Hugging Face cache "
            f"({HF_HUB_CACHE}); fetch it once: hf download {dataset} --repo-type dataset"
        ) from error


def _rows(folder: Path, split: str) -> Iterator[Mapping[str, Any]]:
    import datasets

    files = [
        str(path)
        for path in sorted(folder.rglob("*.parquet"))
        if any(part.startswith(split) for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise ValueError(
            f"dataset: no Parquet file of the {split} split in {str(folder)!r}; expected names "
            f"such as data/{split}-00000-of-00001.parquet; fetch the dataset whole"
        )
    rows: Any = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    for row in rows:
        absent = [name for name in FIELDS if name not in row]
        if absent:
            raise ValueError(
                f"dataset: {files[0]!r} has no field {absent[0]!r}; expected HoVer's: "
                f"{', '.join(FIELDS)}; give a dataset that has them"
            )
        yield row


def _usable(
    rows: Iterable[Mapping[str, Any]],
    hops: Sequence[int],
    known: Mapping[str, Passage],
    used: set[str],
) -> Iterator[Claim]:
    """Claims with labels and whole evidence, of questions that are not used yet."""
    for row in rows:
        question, claim = str(row["hpqa_id"]), str(row["claim"]).strip()
        titles = dict.fromkeys(normal(fact["key"]) for fact in row["supporting_facts"])
        if row["num_hops"] not in hops or not {question, claim}.isdisjoint(used):
            continue
        if row["label"] not in LABELS or not titles or not known.keys() >= titles.keys():
            continue
        used |= {question, claim}
        verdict = LABELS[row["label"]]
        yield Claim(
            text=claim,
            kind=f"hover-{row['num_hops']}",
            verdict=verdict,
            hops=(tuple(titles),),
            evidence=tuple(
                _evidence(known[normal(fact["key"])], fact["value"])
                for fact in row["supporting_facts"]
            ),
            wrong_hop=0 if verdict == "supported" else 1,
            explanation="",
        )


def _evidence(passage: Passage, number: int) -> Evidence:
    """A sentence by its number; the whole text where the corpus does not have it in sentences."""
    whole = number >= len(passage.sentences)
    return Evidence(passage.title, passage.text if whole else passage.sentences[number].strip())
