"""Reading a policy's folders before anything is swapped, so that a bad one is refused whole."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from fst_agents.errors import ServingError
from fst_agents.types import Policy

Shapes = dict[str, tuple[int, ...]]

OPTIONAL = ("lm_head.weight", "rotary_emb.inv_freq")
"""Ends of names that some savers write and others leave out: a tied output layer, constants."""


def model_folder(model: str) -> Path:
    """The folder of a model that was given as a folder or is in the Hugging Face cache.

    Raises:
        ServingError: neither is the case.
    """
    if Path(model).is_dir():
        return Path(model).resolve()
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        raise ServingError(f"{model}: neither a folder nor a model in the local cache") from error


def check(policy: Policy) -> None:
    """Make sure that the weights of a policy can be read and belong to its model.

    Raises:
        ServingError: naming the file or the tensors that do not fit.
    """
    if policy.adapter is not None:
        _require(policy.adapter, "adapter_config.json", "a PEFT adapter")
        shapes_in(policy.adapter, "adapter_model*.safetensors")
    if policy.weights is not None:
        _require(policy.weights, "config.json", "a folder with full weights")
        compare(shapes_in(policy.weights), shapes_in(model_folder(policy.model)), policy.weights)


def shapes_in(folder: Path, pattern: str = "*.safetensors") -> Shapes:
    """Name and shape of every tensor in a folder's safetensors files; reads headers only."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise ServingError(f"{folder}: no {pattern} there; save the weights as safetensors")
    shapes: Shapes = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - safe_open has no __iter__
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise ServingError(f"{file}: not readable as safetensors: {error}") from error
    return shapes


def damaged(where: Path | str, error: SafetensorError) -> str:
    """What to say where a model's file cannot be read."""
    return (
        f"{where}: expected whole safetensors files, but one cannot be read ({error}); it was cut "
        "short or damaged: copy or fetch it again"
    )


def compare(got: Shapes, expected: Shapes, folder: Path) -> None:
    """Refuse weights whose tensors differ from the base model's in name or shape."""
    missing = sorted(n for n in expected.keys() - got.keys() if not n.endswith(OPTIONAL))
    unexpected = sorted(n for n in got.keys() - expected.keys() if not n.endswith(OPTIONAL))
    shapes = sorted(n for n in expected.keys() & got.keys() if expected[n] != got[n])
    if missing or unexpected or shapes:
        raise ServingError(
            f"{folder}: not weights of the served model: "
            f"missing {_some(missing)}, unexpected {_some(unexpected)}, other shape {_some(shapes)}"
        )


def _require(folder: Path, name: str, what: str) -> None:
    if not (folder / name).is_file():
        raise ServingError(f"{folder}: expected {what}, but there is no {name}")


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
