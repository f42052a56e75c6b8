"""The micro policy: a tiny language model that follows the instructions of a small phrase book."""

from pathlib import Path

__all__ = ["path"]


def path() -> Path:
    """Return the folder of the shipped policy: a Qwen3 checkpoint with its tokenizer."""
    return Path(__file__).parent / "weights"
