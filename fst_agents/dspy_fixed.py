"""Predictors on a model of their own: neither trained nor evolved (a judge, a query rewriter).

Contract. A predictor is *fixed* where the program's author has set its ``lm``, or the run file has
``[fixed.<predictor>]``, which wins. Its calls leave no tokens here, so they are no
:class:`~fst_agents.types.Call` and no sample; its instruction stands in every candidate as it was
written. It speaks through DSPy's own adapter, not the policy's. What goes wrong with its model is
infrastructure: tried again, then masked, never a zero for the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from fst_agents.config import RunConfig
from fst_agents.dspy_bridge import named_predictors
from fst_agents.dspy_recorder import is_policy
from fst_agents.errors import ConfigError, ProgramError


class AdapterByModel:
    """Stands for an adapter in ``dspy.settings``: the policy's for the policy, else another.

    ``fresh``: models other than the policy answer anew, not from DSPy's cache. What could not be
    read the first time would come back from there for ever.
    """

    def __init__(
        self,
        policy: dspy.Adapter | None = None,
        other: dspy.Adapter | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        # Without arguments because dspy.Refine calls the adapter's class so.
        self._policy = dspy.ChatAdapter() if policy is None else policy
        self._other = dspy.ChatAdapter() if other is None else other
        self._fresh = fresh

    def refreshed(self) -> AdapterByModel:
        """The same for another attempt at a rollout."""
        return AdapterByModel(self._policy, self._other, fresh=True)

    def __call__(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
        if is_policy(lm):
            return self._policy(lm, *args, **kwargs)
        return self._other(self._model(lm), *args, **kwargs)

    async def acall(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`__call__`, asynchronously."""
        if is_policy(lm):
            return await self._policy.acall(lm, *args, **kwargs)
        return await self._other.acall(self._model(lm), *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # not yet set, or a protocol's: copying asks before __init__ ran
            raise AttributeError(name)
        return getattr(self._policy, name)  # dspy.ReAct formats with the adapter it finds

    def _model(self, lm: Any) -> Any:
        return lm.copy(cache=False) if self._fresh else lm


def fixed_names(program: dspy.Module, fixed: Mapping[str, Any]) -> tuple[str, ...]:
    """The predictors that have a model of their own, in the program's order."""
    named = named_predictors(program).items()
    return tuple(name for name, p in named if name in fixed or p.lm is not None)


def learning_predictors(program: dspy.Module, fixed: Mapping[str, Any]) -> tuple[str, ...]:
    """The predictors that run on the policy, in the program's order; ``fixed`` is keyed by name.

    Raises:
        ProgramError: as :func:`~fst_agents.dspy_bridge.named_predictors`, or for a name in
            ``fixed`` that the program does not have.
    """
    names = list(named_predictors(program))
    strangers = sorted(set(fixed) - set(names))
    if strangers:
        raise ProgramError(
            f"fixed models for {_quoted(strangers)}, but the program's predictors are "
            f"{_quoted(names)}; use these names"
        )
    own = fixed_names(program, fixed)
    return tuple(name for name in names if name not in own)


def fixed_models(config: RunConfig) -> dict[str, dspy.LM]:
    """The models of ``[fixed.<predictor>]``, by predictor. Nothing is asked of them yet.

    They answer within ``sampling.timeout`` and anew each time, unless ``args`` say otherwise.

    Raises:
        ConfigError: DSPy refuses a model or its arguments; one line each.
    """
    models: dict[str, dspy.LM] = {}
    faults: list[str] = []
    for name, asked in config.fixed.items():
        arguments: dict[str, Any] = {
            "cache": False,
            "timeout": config.sampling.timeout,
            **asked.args,
        }
        try:
            models[name] = dspy.LM(asked.model, **arguments)
        except Exception as error:  # noqa: BLE001 - DSPy raises what its clients do
            faults.append(f"fixed.{name}: {asked.model!r} with {asked.args}: {error}")
    if faults:
        raise ConfigError(faults)
    return models


def learning_faults(program: dspy.Module, config: RunConfig) -> list[str]:
    """What is wrong with the predictors that a run file names, one line each.

    Raises:
        ProgramError: as :func:`~fst_agents.dspy_bridge.named_predictors`.
    """
    names = list(named_predictors(program))
    own = fixed_names(program, config.fixed)
    faults = [
        f"fixed.{name}: the program has no predictor {name!r}; it has {_quoted(names)}"
        for name in config.fixed
        if name not in names
    ]
    for key, asked in (("fast.evolve", config.fast.evolve), ("slow.train", config.slow.train)):
        listed = () if asked == "*" else asked
        missing = sorted(set(listed) - set(names))
        if missing:
            faults.append(
                f"{key}: the program has no predictor {_quoted(missing)}; it has {_quoted(names)}"
            )
        faults += [
            f"{key}: predictor {name!r} has a model of its own, which neither evolves nor is "
            f"trained; leave it out of {key}, or remove its model"
            for name in listed
            if name in own
        ]
    if len(own) == len(names):
        faults.append(
            f"every predictor of the program ({_quoted(names)}) has a model of its own, so nothing "
            "is left to learn; remove [fixed.…] from the run file, or call program.set_lm(None)"
        )
    faults += _sampling_faults(program, config)
    try:
        fixed_models(config)
    except ConfigError as error:
        faults += error.problems
    return faults


def _sampling_faults(program: dspy.Module, config: RunConfig) -> list[str]:
    """Options of predictors that would end a run only after rollouts had been paid for.

    What a call is given besides (``predictor(..., config={...})``) is seen when it is made.
    """
    own, asked, train = fixed_names(program, config.fixed), config.sampling, config.slow.train
    faults: list[str] = []
    for name, predictor in named_predictors(program).items():
        if name in own:
            continue
        top_p, temperature = (predictor.config.get(key) for key in ("top_p", "temperature"))
        if top_p not in (None, 1):
            faults.append(
                f"predictor {name!r} has a top_p of its own, {top_p}; it would change the "
                "distribution that is sampled from, and the trainer could not follow: remove it"
            )
        # The gepa arm takes no RL step, so nothing there depends on the temperature.
        trains = config.arm != "gepa" and (train == "*" or name in train)
        if trains and temperature not in (None, asked.temperature):
            faults.append(
                f"predictor {name!r} has a temperature of its own, {temperature}, but is trained "
                f"at sampling.temperature, {asked.temperature:g}; the importance ratio needs one "
                "and the same: remove it, or leave the predictor out of slow.train"
            )
    return faults


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names))
