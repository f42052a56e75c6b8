"""What a run file may say: every key, its meaning, its bounds and its default.

Defaults follow the paper (arXiv 2605.12484) where it speaks and are sized for the embedded micro
policy otherwise. Files are read in :mod:`fst_agents.run_file`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Arm = Literal["fst", "rl", "gepa", "sequential", "distill"]
ARMS: tuple[Arm, ...] = get_args(Arm)
Predictors = Literal["*"] | tuple[str, ...]
Acceptance = Literal["strict_improvement", "improvement_or_equal", "beyond_noise"]

MANY = 1_000_000
"""Of anything that is counted; more would be a slip, and take a machine's memory or days."""

LONG = 10_000_000.0
"""Seconds that anything may be waited for, four months; threads cannot wait for ever."""


class Section(BaseModel):
    """Base of all sections: unknown keys refused, values immutable, numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskConfig(Section):
    """``[task]``: what is to be learnt. A shipped task has further keys of its own (below), a
    program of your own has ``program``, ``metric`` and ``data``.
    """

    # A shipped task's own keys are validated by the task, which this package does not know.
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str = Field(
        default="digits", description="A shipped task, or what a program of your own is called."
    )
    program: str | None = Field(
        default=None,
        description="Your own: 'module:name' of a dspy.Module or of a function that builds one.",
    )
    metric: str | None = Field(default=None, description="Your own: 'module:name' of the metric.")
    eval_metric: str | None = Field(
        default=None, description="Your own: scores the 2×2 instead of the metric."
    )
    data: Path | None = Field(default=None, description="Your own: JSONL, an example a line.")
    eval_data: Path | None = Field(
        default=None, description="Your own: validation examples; default: a fifth of the data."
    )
    inputs: tuple[str, ...] | None = Field(
        default=None,
        description="Your own: fields the program is given; default: the parameters of forward.",
    )
    score_range: tuple[float, float] | None = Field(
        default=None,
        description="Least and most a metric may return; outside it is an error. Left out: any "
        "number, but none above 1 where instructions evolve.",
    )
    train_size: int | None = Field(
        default=None,
        ge=2,
        le=MANY,
        description="Training problems; default: the task's, or all you have.",
    )
    val_size: int | None = Field(
        default=None, ge=1, le=MANY, description="Validation problems of the 2×2; default likewise."
    )

    @property
    def options(self) -> dict[str, Any]:
        """What a shipped task is given: its own keys and the sizes, where they were set."""
        sizes = {"train_size": self.train_size, "val_size": self.val_size}
        given = {name: size for name, size in sizes.items() if size is not None}
        return {**given, **(self.model_extra or {})}


class FixedModel(Section):
    """One predictor that runs on a model of its own, neither trained nor evolved."""

    model: str = Field(description="LiteLLM model name.")
    args: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="Further arguments of dspy.LM."
    )


class PolicyConfig(Section):
    """``[policy]``: the model, and which of its weights move."""

    model: str = Field(
        default="micro",
        min_length=1,
        description="'micro' (the embedded policy), a folder, or a Hugging Face name.",
    )
    train: Literal["lora", "full"] = Field(default="lora", description="Adapter or all weights.")
    lora_rank: int = Field(default=32, ge=1, le=8192, description="Rank of the adapter.")
    lora_alpha: float = Field(
        default=64.0, gt=0, description="Scale of the adapter (alpha / rank)."
    )
    lora_targets: tuple[str, ...] | Literal["all-linear"] = Field(
        default="all-linear", description="Modules that get an adapter."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Precision of trainer and host; bfloat16 for GPUs."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=8192,
        description="CPU threads of torch; default: 1 for 'micro' (more only spin), else torch's.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run code that comes with the model."
    )


class ServeConfig(Section):
    """``[serve]``: who samples."""

    host: Literal["auto", "local", "vllm"] = Field(
        default="auto", description="'auto' takes vllm where an accelerator and vLLM are present."
    )
    url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#]+(/[^\s]*)?$",
        description="Attach to this vLLM server instead of starting one.",
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="TCP port on 127.0.0.1 of the server we start; absent: a private socket.",
    )
    api_key_env: str | None = Field(
        default=None, description="Variable that holds the key of the attached server."
    )
    start_timeout: float = Field(
        default=300.0, gt=0, le=LONG, description="Seconds to wait for a healthy server."
    )
    request_timeout: float = Field(
        default=120.0, gt=0, le=LONG, description="Seconds one completion may take."
    )
    max_batch: int = Field(
        default=256, ge=1, le=MANY, description="Most sequences sampled together."
    )
    gpu_memory: float = Field(default=0.45, gt=0, le=1, description="Share of GPU memory for vLLM.")
    context_length: int | None = Field(
        default=None, ge=16, le=100 * MANY, description="vllm: cap of the context length."
    )
    extra_args: tuple[str, ...] = Field(
        default=(), description="Further arguments of 'vllm serve'."
    )


class SamplingConfig(Section):
    """``[sampling]``: how rollouts are drawn. Training needs the untruncated distribution."""

    temperature: float = Field(
        default=1.0, gt=0, le=100, description="Of training rollouts and of the trainer."
    )
    max_tokens: int = Field(
        default=16,
        ge=1,
        le=MANY,
        description="Most completion tokens of one call; `fst` takes 1024 for a policy other than "
        "'micro' unless it is set.",
    )
    concurrency: int = Field(
        default=64, ge=1, le=8192, description="Rollouts that run at the same time."
    )
    timeout: float = Field(
        default=120.0, gt=0, le=LONG, description="Seconds one rollout may take before masking."
    )
    retries: int = Field(
        default=1, ge=0, le=100, description="Tries again after an infrastructure failure."
    )
    failure_score: float = Field(
        default=-0.1,
        ge=-MANY,
        le=MANY,
        description="What an unreadable, cut off or crashed rollout scores in training: below a "
        "wrong answer.",
    )
    partial_credit: float = Field(
        default=0.1,
        ge=0,
        le=MANY,
        description="What an answer earns above that if some of its fields could be read: this "
        "times their share.",
    )
    max_infra_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Share of masked rollouts in a step above which a run stops.",
    )


class FastConfig(Section):
    """``[fast]``: the evolution of Φ."""

    population: int = Field(
        default=4, ge=1, le=MANY, description="K, members of Φ; must divide slow.group_size."
    )
    rollouts: int = Field(
        default=576,
        ge=1,
        le=1000 * MANY,
        description="Rollouts of one fast phase, re-scoring included, exactly counted.",
    )
    minibatch: int = Field(
        default=6, ge=1, le=MANY, description="Problems a proposal is tried on first."
    )
    reflection_lm: str = Field(
        default="offline",
        min_length=1,
        description="'offline' (the digits tasks only) or any LiteLLM model name.",
    )
    reflection_args: dict[str, Any] = Field(
        default_factory=dict[str, Any],
        description="Further arguments of that model (api_base, …); by default temperature 1.0, "
        "max_tokens 4096, timeout 120 and num_retries 2.",
    )
    acceptance: Acceptance = Field(
        default="strict_improvement",
        description="When a proposal that was tried on the minibatch is scored on the anchor set: "
        "better than its parent, as good, or better by more than sampling noise.",
    )
    schedule: Literal["fixed", "adaptive"] = Field(
        default="fixed",
        description="A fast phase in every cycle, or only where it pays (fst and distill arms): "
        "what is passed over goes to RL steps.",
    )
    adaptive_flat: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="adaptive: evolve if this share of a cycle's groups is flat below the best "
        "score: they move no weights.",
    )
    adaptive_drop: float = Field(
        default=0.1,
        gt=0,
        description="adaptive: evolve if a cycle's mean reward lies this far below the best one "
        "since the last fast phase, in shares of task.score_range.",
    )
    adaptive_rise: float = Field(
        default=0.02,
        gt=0,
        description="adaptive: evolve if the mean reward rose by less than this, in the same "
        "shares, ...",
    )
    adaptive_patience: int = Field(
        default=2, ge=2, le=MANY, description="... from the first to the last of so many cycles."
    )
    components: Literal["round_robin", "all"] = Field(
        default="round_robin", description="Predictors rewritten per proposal."
    )
    merge: bool = Field(default=False, description="Also cross candidates that share an ancestor.")
    evolve: Predictors = Field(
        default="*", description="Predictors whose instructions evolve: '*' or a list of names."
    )
    max_staleness: int = Field(
        default=0, ge=0, le=MANY, description="Versions by which a reused rollout's policy may lag."
    )


class SlowConfig(Section):
    """``[slow]``: the training of θ."""

    steps_per_cycle: int = Field(
        default=6, ge=1, le=MANY, description="T, RL steps after each fast phase."
    )
    batch_size: int = Field(default=16, ge=1, le=MANY, description="Problems per RL step.")
    group_size: int = Field(
        default=8, ge=2, le=MANY, description="G, rollouts per problem over all of Φ."
    )
    learning_rate: float = Field(
        default=4e-4, gt=0, le=1.0, description="Peak learning rate of AdamW."
    )
    warmup_steps: int = Field(default=10, ge=0, le=MANY, description="Linear warm-up.")
    kl_coefficient: float = Field(
        default=0.001, ge=0, le=MANY, description="Weight of the KL to the base model."
    )
    cispo_cap: float = Field(
        default=4.0, gt=0, le=MANY, description="τ, upper bound of the importance ratio."
    )
    weighting: Literal["problem", "rollout", "call"] = Field(
        default="problem",
        description="What weighs alike: each problem, its tokens equal (the paper), each rollout "
        "of a problem, or each call.",
    )
    train: Predictors = Field(
        default="*", description="Predictors whose calls are trained on: '*' or a list of names."
    )
    advantage_epsilon: float = Field(
        default=1e-4, gt=0, description="ε beside the group's deviation."
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="Clipping of the gradient norm.")
    tokens_per_micro_batch: int = Field(
        default=8192, ge=16, le=100 * MANY, description="Padded tokens of one forward pass."
    )


class DistillConfig(Section):
    """``[distill]``: the finishing stage that folds the champion's instruction into the weights.
    It is part of the budget: an arm has that many rollouts less for the rest.
    """

    steps: int | None = Field(
        default=None,
        ge=0,
        le=MANY,
        description="Steps of it; default: 96 in the distill arm, else none.",
    )
    samples: int = Field(default=2, ge=1, le=MANY, description="Answers per problem and step.")
    learning_rate: float = Field(default=2e-4, gt=0, le=1.0, description="Learning rate of AdamW.")


class BudgetConfig(Section):
    """``[budget]``: when a run ends. Every arm gets the same number of rollouts."""

    cycles: int = Field(
        default=12, ge=1, le=MANY, description="Cycles of the fst arm; others get its rollouts."
    )
    rollouts: int | None = Field(
        default=None, ge=1, le=1000 * MANY, description="Overrides the total that cycles imply."
    )
    enough: float | None = Field(
        default=None,
        description="Stop after a cycle's RL steps if their mean reward reaches this: what is "
        "solved only drifts. Default: the task's own, if it has one.",
    )
    seconds: float | None = Field(
        default=None,
        gt=0,
        description="Stop after the step that exceeds it. A finishing stage and the evaluation "
        "come after that.",
    )


class EvalConfig(Section):
    """``[eval]``: the 2×2 at the end, and validations on the way to it. Neither is part of the
    budget.
    """

    samples: int = Field(
        default=4, ge=1, le=MANY, description="Rollouts of every validation problem in each cell."
    )
    every: int | None = Field(
        default=None,
        ge=1,
        le=MANY,
        description="Cycles from one validation to the next: behind its fast phase and behind its "
        "RL steps, what would ship is asked. Default: none before the end.",
    )
    problems: int = Field(
        default=32,
        ge=1,
        le=MANY,
        description="Validation problems, the first ones, that are asked on the way.",
    )
    temperature: float = Field(
        default=1.0, ge=0, le=100, description="Sampling temperature of evaluation."
    )


class CheckpointConfig(Section):
    """``[checkpoint]``: what a stopped run goes on from. One is also written before the first step,
    after every fast phase and after the last step of every cycle.
    """

    every: int = Field(
        default=1, ge=1, le=MANY, description="RL steps from one checkpoint to the next."
    )
    keep: int = Field(
        default=2,
        ge=1,
        le=MANY,
        description="Checkpoints kept; a second one is there if one is damaged.",
    )


class TrackConfig(Section):
    """``[track]``: MLflow."""

    enabled: bool = Field(default=True, description="False leaves only the run directory.")
    uri: str | None = Field(
        default=None,
        description="Tracking URI; default: MLFLOW_TRACKING_URI, else SQLite beside the run "
        "directory.",
    )
    experiment: str = Field(default="fst", min_length=1, description="Experiment name.")


class RunConfig(Section):
    """A whole run file. Top-level keys stand before the first section."""

    arm: Arm = Field(default="fst", description="fst, rl, gepa, sequential or distill.")
    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="Seed of data order, sampling and initialisation.",
    )
    run_dir: Path | None = Field(
        default=None,
        description="Where the run writes; default runs/<UTC time>-<arm>-<task>-seed<N>.",
    )
    task: TaskConfig = TaskConfig()
    fixed: dict[str, FixedModel] = Field(
        default_factory=dict[str, FixedModel],
        description="Predictor name → a model of its own, which neither trains nor evolves.",
    )
    policy: PolicyConfig = PolicyConfig()
    serve: ServeConfig = ServeConfig()
    sampling: SamplingConfig = SamplingConfig()
    fast: FastConfig = FastConfig()
    slow: SlowConfig = SlowConfig()
    distill: DistillConfig = DistillConfig()
    budget: BudgetConfig = BudgetConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    track: TrackConfig = TrackConfig()


def least_score(config: RunConfig) -> float:
    """What a failed rollout scores in an evaluation."""
    return 0.0 if config.task.score_range is None else config.task.score_range[0]
