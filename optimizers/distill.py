"""Self-distillation on the policy's own answers: from itself with a prompt to itself without.

For every token of an answer that the student drew under its own prompt, the teacher says what it
would have drawn there under its prompt; the reverse KL between the two is brought down. No reward
and no importance ratio: answers are fresh, and only the student's logits carry a gradient.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM

from fst_agents.config import RunConfig
from fst_agents.errors import TrainerError
from fst_agents.types import Policy, StepReport
from optimizers.books import copy_weights, weights_of
from optimizers.distill_pairs import Pair
from optimizers.distill_stage import TEACHER
from optimizers.shared_prefix import completion_logits
from optimizers.slow_grpo import GrpoSlow, readable
from optimizers.trl_bridge import add_lora

MOMENTS = "moments.safetensors"


def reverse_kl(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
    """KL(student ‖ teacher) at each of N places, in nats, from logits over V tokens → (N,)."""
    ours, theirs = student_NV.log_softmax(-1), teacher_NV.log_softmax(-1)
    return F.kl_div(theirs, ours, reduction="none", log_target=True).sum(-1)


class Distiller(GrpoSlow):
    """A policy that learns from a frozen copy of itself; publishes and scores as its parent does.

    The copy is what the policy was when the stage began. It costs the memory of a second model, and
    it is read from the disk: the trainer library binds a model's forward to that very model, so one
    copied in memory may go on answering with the weights that are being trained.

    Args:
        policy: where the student starts.
        config: sections policy, slow, sampling and distill are read.
        teacher: the copy, in a folder that stays; the policy itself by default.
        resume: folder that :meth:`save` filled when ``policy`` was published.

    Raises:
        TrainerError, ConfigError: see :class:`GrpoSlow`.
    """

    def __init__(
        self,
        policy: Policy,
        config: RunConfig,
        teacher: Policy | None = None,
        resume: Path | None = None,
    ) -> None:
        super().__init__(policy, config)
        self._frozen = policy if teacher is None else teacher
        self._teacher = self._load_teacher(self._frozen)
        self._trained = [p for p in self._model.parameters() if p.requires_grad]
        self._adam = torch.optim.AdamW(
            self._trained, lr=config.distill.learning_rate, weight_decay=0.0
        )
        if resume is not None:
            self._take_up(resume / MOMENTS)

    def save(self, folder: Path) -> None:
        """Write what continuing needs beside the published weights: AdamW's state, the teacher."""
        state = self._adam.state_dict()["state"]
        tensors = {f"{i}.{name}": t for i, own in state.items() for name, t in own.items()}
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / MOMENTS
        )
        weights = weights_of(self._frozen)
        if weights is not None:
            copy_weights(weights, folder / TEACHER)

    def _take_up(self, file: Path) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        with readable(file):
            tensors = load_file(file)
        for key, tensor in tensors.items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = tensor
        if sorted(state) != list(range(len(self._trained))):
            self.close()
            raise TrainerError(
                f"{file}: has AdamW's state of {len(state)} tensors, but {len(self._trained)} are "
                "trained; it belongs to another policy"
            )
        self._adam.load_state_dict({**self._adam.state_dict(), "state": state})

    def _load_teacher(self, policy: Policy) -> Any:
        settings = self._config.policy
        with readable(policy.adapter or policy.weights or policy.model):
            model: Any = AutoModelForCausalLM.from_pretrained(
                policy.model if policy.weights is None else str(policy.weights),
                dtype=torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32,
                trust_remote_code=settings.trust_remote_code,
            )
            if policy.adapter is not None:
                model = add_lora(model, self._config, policy.adapter)
        return model.requires_grad_(False).eval().to(self._model.device)

    def distill(self, pairs: Sequence[Pair]) -> StepReport:
        """One optimizer step on the mean reverse KL over all tokens; the version rises by one.

        ``distill/kl`` is that mean before the step, in nats per token.

        Raises:
            TrainerError: there is nothing to learn from, a sequence does not fit, or loss or
                gradient is not finite; the weights are as before.
        """
        started = time.perf_counter()
        for pair in pairs:
            self._check_sequence(pair.student_ids, pair.completion_ids)
            self._check_sequence(pair.teacher_ids, pair.completion_ids)
        tokens = sum(len(pair.completion_ids) for pair in pairs)
        if not tokens:
            raise TrainerError("a distillation step needs at least one completion token; got none")
        self._adam.zero_grad()
        total = 0.0
        longer = [(max(p.student_ids, p.teacher_ids, key=len), p.completion_ids) for p in pairs]
        for rows in self._logit_batches(longer):
            loss = self._loss([pairs[i] for i in rows])
            self._trainer.accelerator.backward(loss / tokens)
            total += loss.item()
        norm = clip_grad_norm_(self._trained, self._config.slow.max_grad_norm)
        if not (norm.isfinite() and torch.tensor(total).isfinite()):
            raise TrainerError(
                f"loss is {total / tokens} and gradient norm {norm.item()} on {len(pairs)} answers;"
                " the weights were left as they are. A lower distill.learning_rate may help"
            )
        self._adam.step()
        self._policy = Policy(self._policy.model, version=self._policy.version + 1)
        numbers = {
            "kl": total / tokens,
            "tokens": float(tokens),
            "answers": float(len(pairs)),
            "grad_norm": norm.item(),
            "seconds": time.perf_counter() - started,
        }
        return StepReport(self._policy.version, {f"distill/{k}": v for k, v in numbers.items()})

    def _loss(self, pairs: Sequence[Pair]) -> Tensor:
        """Sum over tokens of the reverse KL."""
        with torch.no_grad():
            theirs = self._at_completions(self._teacher, [p.teacher_ids for p in pairs], pairs)
        ours = self._at_completions(self._model, [p.student_ids for p in pairs], pairs)
        return reverse_kl(ours, theirs).sum()

    def _at_completions(
        self, model: Any, prompts: Sequence[Sequence[int]], pairs: Sequence[Pair]
    ) -> Tensor:
        """Logits that predict each completion token, all answers in a row: (N, V), over T."""
        with self._trainer.accelerator.autocast():
            rows = completion_logits(model, prompts, [p.completion_ids for p in pairs])
        return torch.cat(rows) / self._config.sampling.temperature
