"""The one file that knows TRL and PEFT: ``GRPOTrainer`` on our samples.

The seam is public: ``training_step``, ``compute_loss``, ``log`` and ``create_scheduler`` are
overridden, and TRL's loss reads the keys of :func:`collate`. TRL computes

``L = Σ_samples weight · Σ_T mask · (−sg(min(ρ, cap)) · A · log π + β · ρ · k3)``

because ``weight · mask`` goes in as TRL's ``tool_mask`` and its token normaliser is set to one.
So the loss is the same however a batch is cut into micro-batches, and the KL averages like the
policy term: per problem. With the factor ρ (TRL's default) the gradient of the KL term is that of
KL(π ‖ base); without it, it would be that of KL(base ‖ π).

TRL's ``train()`` owns the loop and is driven step by step (:mod:`optimizers.slow_thread`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback

from fst_agents.config import RunConfig
from fst_agents.errors import TrainerError
from optimizers import shared_prefix
from optimizers.slow_batches import collate, distinct, micro_batches, whole_lengths
from optimizers.slow_thread import Desk

# TRL's own vLLM path is not used, and vLLM takes seconds to import.
with patch("trl.import_utils.is_vllm_available", return_value=False):
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.utils import add_fused_lm_head

PLANNED_STEPS = 10**9
"""TRL wants to know when to stop; we stop it. Only a decaying schedule would read this."""


def add_lora(model: PreTrainedModel, config: RunConfig, adapter: Path | None) -> PeftModel:
    """Wrap a model with a fresh adapter, or with the trainable one in a PEFT folder.

    A fresh adapter is drawn from ``config.seed`` and starts as the identity.
    """
    if adapter is not None:
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return get_peft_model(model, lora_config(config))


def lora_config(config: RunConfig) -> LoraConfig:
    policy = config.policy
    targets = policy.lora_targets
    return LoraConfig(
        r=policy.lora_rank,
        lora_alpha=policy.lora_alpha,  # pyright: ignore[reportArgumentType]  # scale, any float
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else [*targets],
        task_type="CAUSAL_LM",
    )


def save_adapter(model: PeftModel, folder: Path) -> None:
    """The files of ``save_pretrained`` but its model card: rendering one for every version that is
    served takes longer than writing the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: Mapping[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    config = copy.copy(model.peft_config["default"])
    config.inference_mode = True
    config.save_pretrained(str(folder))


@contextlib.contextmanager
def base_weights(model: nn.Module) -> Generator[None]:
    """The wrapped base model while the block runs: its adapter is switched off."""
    if not isinstance(model, PeftModel):
        raise TrainerError(f"a {type(model).__name__} has no adapter to switch off")
    with model.disable_adapter():
        yield


def trainer_args(config: RunConfig, folder: Path, **other: Any) -> GRPOConfig:
    """TRL's settings for ours, ``other`` on top.

    ``epsilon_high`` *is* CISPO's cap and would default to 0.2. One training step is one optimizer
    step; TRL's smallest batch, one prompt of two generations, stands for the batch we hand in.
    """
    slow = config.slow
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": config.seed,
        "loss_type": "cispo",
        "epsilon_high": slow.cispo_cap,
        "importance_sampling_level": "token",
        "use_bias_correction_kl": True,
        "temperature": config.sampling.temperature,
        "learning_rate": slow.learning_rate,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "weight_decay": 0.0,
        "max_grad_norm": slow.max_grad_norm,
        "max_steps": PLANNED_STEPS,
        "per_device_train_batch_size": 2,
        "num_generations": 2,
        "gradient_accumulation_steps": 1,
        "bf16": config.policy.dtype == "bfloat16",
        "use_cpu": not torch.accelerator.is_available(),
        "gradient_checkpointing": False,
        "disable_dropout": True,
        "router_aux_loss_coef": 0.0,
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    return GRPOConfig(**settings | other)


class SampleTrainer(GRPOTrainer):
    """``GRPOTrainer`` on given samples; see the module's docstring.

    Args:
        model: the policy, wrapped by PEFT or not.
        reference: the frozen base model where a KL is wanted and the policy is not an adapter.
        folder: scratch folder TRL insists on; nothing is saved there.
        desk: where batches come from and the numbers of finished steps go.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: PreTrainedModel | None,
        config: RunConfig,
        folder: Path,
        desk: Desk,
    ) -> None:
        super().__init__(
            model=model,  # pyright: ignore[reportArgumentType]
            args=trainer_args(config, folder),
            reward_funcs=[_no_reward],
            train_dataset=Dataset.from_dict({"prompt": [""] * 1024}),
            processing_class=placeholder_tokenizer(model),
        )
        self.remove_callback(PrinterCallback)
        # Given to the constructor, beta would make TRL load a second model or a second adapter.
        self.beta = config.slow.kl_coefficient
        self.reference = reference
        if reference is not None:
            add_fused_lm_head(reference, temperature=config.sampling.temperature)
            reference.to(self.accelerator.device)  # pyright: ignore[reportArgumentType]
        self.padded_tokens = config.slow.tokens_per_micro_batch
        self.linear_warmup = config.slow.warmup_steps
        self.desk = desk
        self.report: dict[str, float] | None = None
        self.tallies: list[Tensor] = []

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        """Linear warm-up, then constant. The library's own gives the first step a rate of 0."""
        chosen: Any = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = LambdaLR(
            chosen,
            lambda step: min(1.0, (step + 1) / max(1, self.linear_warmup)),
        )
        return self.lr_scheduler

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """Park, then accumulate the gradient of one whole batch. TRL steps the optimizer after.

        Raises:
            TrainerError: loss or gradient is not finite; no weight has moved then.
        """
        samples = self.desk.exchange(self.report)
        model.train()
        device = self.accelerator.device
        unlike = distinct(samples)
        lengths = whole_lengths([(s.prompt_ids, s.completion_ids_T) for s, _ in unlike])
        batches = [
            {key: value.to(device) for key, value in collate([unlike[i] for i in rows]).items()}
            for rows in micro_batches(lengths, self.padded_tokens)
        ]
        if self.beta:
            self._add_reference(model, batches)
        self.tallies = []
        loss = torch.zeros((), device=device)
        for batch in batches:
            part = self.compute_loss(model, batch)
            self.accelerator.backward(part)
            loss += part.detach()
        norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if not (loss.isfinite() and norm.isfinite()):
            raise TrainerError(
                f"loss is {loss.item()} and gradient norm {norm.item()} on {len(samples)} samples;"
                " the weights were left as they are. A lower slow.learning_rate may help"
            )
        self.report = {"loss": loss.item(), **_summary(self.tallies)}
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """TRL's loss of one micro-batch, its per-token values noted on the way.

        TRL reads the last columns of what it takes for the model's output.
        """
        outputs: list[Any] = []

        def observed(input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **head: Any) -> Any:
            limit = inputs["prompt_ids"].shape[1] - 1
            _, output = shared_prefix.forward(
                model, input_ids, attention_mask, limit, labels_BL=labels, **head
            )
            outputs.append(output)
            return output

        loss = super().compute_loss(observed, inputs, return_outputs, num_items_in_batch)
        self.tallies.append(_tally(outputs[0], inputs, self.epsilon_high))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by the library right after the optimizer step."""
        if self.report is not None and "grad_norm" in logs:
            self.report |= {key: float(logs[key]) for key in ("grad_norm", "learning_rate")}
        super().log(logs, start_time)
        self.state.log_history.clear()  # it would keep every step's; the run directory has them

    def optimizer_state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """AdamW's moments by parameter name, and where the schedule stands; while parked."""
        tensors = {
            f"{name}/{key}": value
            for name, state in self._optimizer_states()
            for key, value in state.items()
        }
        return tensors, {"schedule": self._schedule.last_epoch}

    def load_optimizer_state(self, tensors: Mapping[str, Tensor], place: Mapping[str, int]) -> None:
        """Put back what :meth:`optimizer_state` gave; while parked.

        Raises:
            TrainerError: the tensors are not those of this model's trained parameters.
        """
        wanted = dict(tensors)
        keys = ("exp_avg", "exp_avg_sq", "step")
        for name, state in self._optimizer_states():
            found = {key: wanted.pop(f"{name}/{key}", None) for key in keys}
            if all(value is None for value in found.values()):
                continue
            if any(value is None for value in found.values()):
                raise TrainerError(f"the optimizer's state of {name!r} is not complete")
            state.update(found)
        if wanted:
            raise TrainerError(
                f"the optimizer's state names {len(wanted)} tensor(s) that this model does not "
                f"train, {min(wanted)!r} first"
            )
        schedule = self._schedule
        schedule.last_epoch = place["schedule"]
        rates = [
            b * f(schedule.last_epoch)
            for b, f in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates  # what the library reports of the next step

    def _optimizer_states(self) -> Iterator[tuple[str, dict[str, Any]]]:
        names = {
            id(p): name for name, p in self.accelerator.unwrap_model(self.model).named_parameters()
        }
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                yield names[id(parameter)], self._optimizer.state[parameter]

    @property
    def _optimizer(self) -> Any:
        """torch's own optimizer inside accelerate's."""
        wrapped: Any = self.optimizer
        return getattr(wrapped, "optimizer", wrapped)

    @property
    def _schedule(self) -> Any:
        wrapped: Any = self.lr_scheduler
        return getattr(wrapped, "scheduler", wrapped)

    def _add_reference(self, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> None:
        context = base_weights(model) if self.reference is None else contextlib.nullcontext()
        scorer = model if self.reference is None else self.reference
        with torch.no_grad(), context, self.accelerator.autocast():
            for batch in batches:
                ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
                mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
                labels = ids.masked_fill(mask == 0, -100)
                width = batch["completion_ids"].shape[1]
                labels[:, :-width] = -100
                limit = batch["prompt_ids"].shape[1] - 1
                _, scored = shared_prefix.forward(
                    scorer, ids, mask, limit, labels_BL=labels, fused_lm_head=True
                )
                batch["ref_per_token_logps"] = scored.log_probs[:, -width:]


def _tally(output: Any, batch: dict[str, Tensor], cap: float) -> Tensor:
    """Sums over a micro-batch's trained tokens, those of every copy, and last two maxima: see
    _summary."""
    trained = batch["tool_mask"] != 0
    copies = batch["copies"][:, None].expand_as(trained)[trained]
    width = trained.shape[1]
    logps_BT = output.log_probs[:, -width:].detach()
    gap_BT = (logps_BT - batch["old_per_token_logps"]).abs().masked_fill(~trained, 0.0)
    gap_B = gap_BT.sum(dim=1) / trained.sum(dim=1).clamp(min=1)
    logps = logps_BT[trained]
    ratio = torch.exp(logps - batch["old_per_token_logps"][trained])
    kl = torch.zeros_like(logps)
    if "ref_per_token_logps" in batch:
        gap = batch["ref_per_token_logps"][trained] - logps
        kl = torch.exp(gap) - gap - 1
    return torch.stack(
        [
            copies.sum().to(ratio),
            (copies * output.entropy[:, -width:].detach()[trained]).sum(),
            (copies * ratio).sum(),
            (copies * (ratio > cap)).sum().to(ratio),
            (copies * kl).sum(),
            ratio.max(),
            gap_B.max(),
        ]
    )


def _summary(tallies: Sequence[Tensor]) -> dict[str, float]:
    """Means over all trained tokens of a step. ``logp_gap``: of each sample, the mean |Δ log p|
    between sampler and trainer; the largest of the batch."""
    table = torch.stack([*tallies])
    tokens, entropy, ratio, capped, kl = table[:, :-2].sum(dim=0).tolist()
    return {
        "tokens": tokens,
        "entropy": entropy / tokens,
        "ratio_mean": ratio / tokens,
        "ratio_max": table[:, -2].max().item(),
        "logp_gap": table[:, -1].max().item(),
        "cap_fraction": capped / tokens,
        "kl": kl / tokens,
    }


def _no_reward(prompts: Sequence[Any], **_: Any) -> list[float | None]:
    """TRL wants a reward function; it is never called."""
    return [0.0] * len(prompts)


def placeholder_tokenizer(model: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of two words: TRL insists on one, and we have ids.

    It bears the model's own special ids, or TRL would write other ones into its configuration.
    """
    declared = model.generation_config.eos_token_id
    eos = declared[0] if isinstance(declared, list) else declared
    eos = 0 if eos is None else eos
    pad_id = model.config.get_text_config().pad_token_id
    vocab = {"<eos>": eos} if pad_id in (None, eos) else {"<eos>": eos, "<pad>": pad_id}
    words = Tokenizer(WordLevel(vocab, unk_token="<eos>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token=[*vocab][-1], unk_token="<eos>"
    )
