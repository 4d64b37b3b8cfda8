"""The state of SB3's `VecNormalize`: running statistics and discounted returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from .errors import NonFiniteError


def save_normaliser(vector: VecNormalize) -> dict[str, Any]:
    """Everything that a normaliser has learned."""
    state: dict[str, Any] = {
        "returns": _save(vector.ret_rms),
        "discounted_returns": np.asarray(vector.returns),
    }
    if vector.norm_obs:
        state["observations"] = _save(_observations(vector))
    return state


def restore_normaliser(vector: VecNormalize, state: Mapping[str, Any]) -> None:
    """Go on from there."""
    _restore(vector.ret_rms, state["returns"])
    vector.returns = state["discounted_returns"].copy()
    if vector.norm_obs:
        _restore(_observations(vector), state["observations"])


def check_normaliser(vector: VecNormalize) -> None:
    """Raise `NonFiniteError` if a statistic is NaN or infinite."""
    checked = {"returns": vector.ret_rms}
    if vector.norm_obs:
        checked["observations"] = _observations(vector)
    for name, running in checked.items():
        if not (np.isfinite(running.mean).all() and np.isfinite(running.var).all()):
            raise NonFiniteError(f"the mean or variance of the {name} is not finite any more")


def _observations(vector: VecNormalize) -> RunningMeanStd:
    running = vector.obs_rms
    assert isinstance(running, RunningMeanStd), "observations are one vector, not a dict of them"
    return running


def _save(running: RunningMeanStd) -> dict[str, Any]:
    mean, var = np.asarray(running.mean), np.asarray(running.var)
    return {"mean": mean, "var": var, "count": float(running.count)}


def _restore(running: RunningMeanStd, state: Mapping[str, Any]) -> None:
    running.mean, running.var = state["mean"].copy(), state["var"].copy()
    running.count = state["count"]
