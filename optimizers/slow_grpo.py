"""The slow optimizer: θ learns by GRPO from rollouts that θ itself has drawn.

What the loop is promised (:class:`optimizers.protocols.SlowOptimizer`) is kept here; the loss is
TRL's and lives behind :mod:`optimizers.trl_bridge`.
"""

from __future__ import annotations

import contextlib
import copy
import math
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError, StalePolicyError, TrainerError
from fst_agents.json_files import read_json, write_json
from fst_agents.serving.weights import damaged
from fst_agents.types import Policy, StepReport, TrainingSample
from optimizers.shared_prefix import completion_logits
from optimizers.slow_batches import micro_batches, whole_lengths
from optimizers.slow_thread import Desk, TrainerThread
from optimizers.trl_bridge import SampleTrainer, add_lora, base_weights, save_adapter

OPTIMIZER, TRAINER = "optimizer.safetensors", "trainer.json"

LOGITS = 2**27
"""Most logits held at once when scoring (512 MB in float32)."""


class GrpoSlow:
    """CISPO on LoRA or full weights (arXiv 2605.12484, slow phase).

    Precision: with ``float32`` all is float32. With ``bfloat16`` the arithmetic is autocast;
    a LoRA's base is held in bfloat16, what is trained always in float32.
    On a CPU, equal samples and seed give equal weights. Building one reseeds the global random
    generators of Python, NumPy and torch (the trainer library does).

    Args:
        policy: where training starts. KL and ``base=True`` refer to ``policy.model`` as it is,
            without adapter or trained weights.
        config: sections policy, slow and sampling are read, and the seed.
        resume: folder that :meth:`save` filled when ``policy`` was published.

    Raises:
        TrainerError: the optimizer's state is not that of this policy.
        ConfigError: the policy's weights do not go with ``policy.train``.
    """

    def __init__(self, policy: Policy, config: RunConfig, resume: Path | None = None) -> None:
        self._lora = config.policy.train == "lora"
        if self._lora and policy.weights is not None:
            raise ConfigError(
                "policy.train: 'lora' cannot continue from full weights "
                f"({policy.weights}); name that folder as policy.model, or train 'full'"
            )
        if not self._lora and policy.adapter is not None:
            raise ConfigError(
                f"policy.train: 'full' cannot continue from an adapter ({policy.adapter}); "
                "merge it into a model folder first, or train 'lora'"
            )
        self._policy = policy
        self._config = config
        self._limit_threads()
        model = _load(policy.model if policy.weights is None else str(policy.weights), config)
        self._saved_configs = copy.deepcopy((model.config, model.generation_config))
        self._base = self._load_base() if config.slow.kl_coefficient and not self._lora else None
        with readable(policy.adapter):
            self._model: Any = add_lora(model, config, policy.adapter) if self._lora else model
        self._scratch = tempfile.TemporaryDirectory(prefix="fst-slow-")
        desk = Desk()
        scratch = Path(self._scratch.name)
        self._trainer = SampleTrainer(self._model, self._base, config, scratch, desk)
        self._thread = TrainerThread(desk, self._train)
        if resume is not None:
            self._restore(resume)

    def _restore(self, folder: Path) -> None:
        try:
            with readable(folder / OPTIMIZER):
                tensors, place = load_file(folder / OPTIMIZER), read_json(folder / TRAINER)
            self._trainer.load_optimizer_state(tensors, place)
        except BaseException:
            self.close()
            raise

    def _train(self) -> None:
        """What the trainer's thread does."""
        self._limit_threads()
        self._trainer.train()

    def _limit_threads(self) -> None:
        """Torch counts its CPU threads for each Python thread that uses it."""
        if self._config.policy.threads is not None:
            torch.set_num_threads(self._config.policy.threads)

    @property
    def policy(self) -> Policy:
        """The policy as trained so far; it names weights on disk only right after publish."""
        return self._policy

    def update(self, samples: Sequence[TrainingSample]) -> StepReport:
        """One optimizer step on all samples together; the policy's version rises by one.

        Without samples (all groups flat) there is no optimizer step: version, warm-up and
        weights stay, and the report says ``slow/skipped`` = 1. ``report.step`` is the policy
        version after the update. Token means in the report are over trained tokens; ``slow/kl``
        is the k3 estimate against the base, ``slow/loss`` the weighted loss that was minimised.

        Raises:
            StalePolicyError: a sample is of another policy version.
            TrainerError: a sample cannot be trained on, memory ran out, or the loss or its
                gradient is not finite. The weights are as before. After the latter two the
                optimizer can still be published and scored with, not updated.
        """
        started = time.perf_counter()
        for sample in samples:
            self._check(sample)
        numbers = {"tokens": 0.0}
        if samples:
            with self._memory():
                numbers = self._thread.step(samples)
            self._policy = Policy(self._policy.model, version=self._policy.version + 1)
        numbers |= {
            "samples": float(len(samples)),
            "skipped": float(not samples),
            "seconds": time.perf_counter() - started,
        }
        return StepReport(self._policy.version, {f"slow/{k}": v for k, v in numbers.items()})

    def publish(self, folder: Path) -> Policy:
        """Write the adapter (PEFT) or the full weights into ``folder``, whole or not at all.

        Raises:
            TrainerError: the folder exists; served weights are never overwritten.
        """
        if folder.exists():
            raise TrainerError(f"{folder} exists already; publish every version to a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            self._write(draft)
            draft.chmod(0o755)
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft)
            raise
        where = {"adapter": folder} if self._lora else {"weights": folder}
        self._policy = Policy(self._policy.model, version=self._policy.version, **where)
        return self._policy

    def save(self, folder: Path) -> None:
        """Write what continuing needs beside the published weights: AdamW's moments and schedule.

        Nothing else is random or remembered: the order of the data and the sampling depend on
        seeds and counters that the loop keeps.
        """
        tensors, place = self._trainer.optimizer_state()
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / OPTIMIZER
        )
        write_json(folder / TRAINER, place)

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        *,
        temperature: float,
        base: bool = False,
    ) -> list[list[float]]:
        """Log-probabilities of completion tokens, one list per completion, logits over T.

        Raises:
            TrainerError: a prompt is empty, or a sequence exceeds the context.
        """
        out: list[list[float]] = [[] for _ in prompts]
        for rows, asked, said in self._scoring_batches(prompts, completions):
            for i, logits in zip(rows, self._logits(asked, said, base), strict=True):
                logps = (logits / temperature).log_softmax(-1)
                tokens = torch.tensor(completions[i], dtype=torch.long, device=logps.device)
                out[i] = logps.gather(-1, tokens[:, None]).squeeze(-1).tolist()
        return out

    def kl_to_base(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> float:
        """Mean over completion tokens of the exact KL(π_train ‖ π_base), temperature 1, in nats.

        Raises:
            TrainerError: there is no token, a prompt is empty, or a sequence exceeds the context.
        """
        tokens = sum(len(completion) for completion in completions)
        if not tokens:
            raise TrainerError("the KL to the base needs at least one completion token; got none")
        total = 0.0
        for _, asked, said in self._scoring_batches(prompts, completions):
            ours = self._logits(asked, said, base=False)
            theirs = self._logits(asked, said, base=True)
            for own, other in zip(ours, theirs, strict=True):
                p, q = own.log_softmax(-1), other.log_softmax(-1)
                total += (p.exp() * (p - q)).sum(dtype=torch.float64).item()
        return total / tokens

    def close(self) -> None:
        """End the trainer's thread and drop its scratch folder. Idempotent."""
        self._thread.close()
        self._scratch.cleanup()

    @contextlib.contextmanager
    def _memory(self) -> Generator[None]:
        """Says what to lower where memory runs out."""
        try:
            yield
        except (TrainerError, RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) and not _out_of_memory(error.__cause__):
                raise
            now = self._config.slow.tokens_per_micro_batch
            raise TrainerError(
                f"the trainer ran out of memory at slow.tokens_per_micro_batch = {now} ({error}); "
                "continue with 'fst train --resume' and --set slow.tokens_per_micro_batch=N, or "
                "serve.gpu_memory, lower"
            ) from error

    def _check(self, sample: TrainingSample) -> None:
        if sample.policy_version != self._policy.version:
            raise StalePolicyError(
                f"sample of problem {sample.problem_id!r} was drawn by policy version "
                f"{sample.policy_version}, but version {self._policy.version} is being trained"
            )
        if not all(map(math.isfinite, (sample.advantage, sample.weight, *sample.logprobs_T))):
            raise TrainerError(
                f"sample of problem {sample.problem_id!r}: advantage {sample.advantage}, weight "
                f"{sample.weight} and all log-probabilities must be finite"
            )
        if not any(sample.loss_mask_T):
            raise TrainerError(f"sample of problem {sample.problem_id!r}: no token is trained on")
        self._check_sequence(sample.prompt_ids, sample.completion_ids_T)

    def _check_sequence(self, prompt: Sequence[int], completion: Sequence[int]) -> None:
        text = self._saved_configs[0].get_text_config()
        length = len(prompt) + len(completion)
        if not prompt:
            raise TrainerError("a prompt has no tokens; the first completion token needs one")
        if length > text.max_position_embeddings:
            raise TrainerError(
                f"a sequence of {length} tokens exceeds the model's context of "
                f"{text.max_position_embeddings}; lower sampling.max_tokens or shorten the prompt"
            )
        if (highest := max((*prompt, *completion))) >= text.vocab_size:
            raise TrainerError(
                f"token id {highest} lies outside the model's vocabulary of {text.vocab_size}; "
                "were these tokens sampled by another model?"
            )

    def _scoring_batches(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[int], list[Sequence[int]], list[Sequence[int]]]]:
        """Of every micro-batch row numbers, prompts and completions."""
        sequences = [*zip(prompts, completions, strict=True)]
        for prompt, completion in sequences:
            self._check_sequence(prompt, completion)
        for rows in self._logit_batches(sequences):
            yield rows, [prompts[i] for i in rows], [completions[i] for i in rows]

    def _logit_batches(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[int]]:
        """Row numbers of micro-batches whose logits fit in memory, of (prompt, completion)."""
        vocabulary = self._saved_configs[0].get_text_config().vocab_size
        budget = min(self._config.slow.tokens_per_micro_batch, max(1, LOGITS // vocabulary))
        return micro_batches(whole_lengths(sequences), budget)

    def _logits(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], base: bool
    ) -> list[Tensor]:
        """:func:`completion_logits`; leaves gradients and the training flag as they were."""
        if base and not self._lora and self._base is None:
            self._base = self._load_base().to(self._model.device)
        model: Any = self._base if base and not self._lora else self._model
        adapter = base_weights(model) if base and self._lora else contextlib.nullcontext()
        training = model.training
        model.eval()
        try:
            with (
                self._memory(),
                torch.no_grad(),
                adapter,
                self._trainer.accelerator.autocast(),
            ):
                return completion_logits(model, prompts, completions)
        finally:
            model.train(training)

    def _load_base(self) -> Any:
        return _load(self._policy.model, self._config).requires_grad_(False).eval()

    def _write(self, folder: Path) -> None:
        """TRL has put its own special ids into the model's configuration: write the original."""
        if self._lora:
            save_adapter(self._model, folder)
            return
        self._model.save_pretrained(folder)
        for config in self._saved_configs:
            config.save_pretrained(folder)


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether memory has run out, of an accelerator or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch, on a CPU
    )


@contextlib.contextmanager
def readable(where: Path | str | None) -> Generator[None]:
    """While weights are loaded: a damaged file is a :class:`TrainerError` that names the place."""
    try:
        yield
    except SafetensorError as error:
        raise TrainerError(damaged(where or "the policy", error)) from error


def _load(name: str, config: RunConfig) -> PreTrainedModel:
    """A causal LM, its trained part in float32."""
    half = config.policy.dtype == "bfloat16" and config.policy.train == "lora"
    with readable(name):
        return AutoModelForCausalLM.from_pretrained(
            name,
            dtype=torch.bfloat16 if half else torch.float32,
            trust_remote_code=config.policy.trust_remote_code,
        )
