"""Behaviour cloning: observation → action rows from a policy, or from a Minari data set on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ...errors import DataError, MissingPackageError
from .data import Dataset
from .optional import optional
from .splitting import Fractions, split_rows

Array = NDArray[Any]


class Policy(Protocol):
    """What has the `predict` of stable-baselines3."""

    def predict(
        self,
        observation: Any,  # noqa: ANN401 - an array or a dict of arrays
        state: Any = ...,  # noqa: ANN401
        episode_start: Any = ...,  # noqa: ANN401
        deterministic: bool = ...,
    ) -> tuple[Any, Any]:
        """Action and next hidden state."""
        ...


def from_policy(
    policy: Policy,
    env: gymnasium.Env[Any, Any] | str,
    *,
    rows: int = 50_000,
    deterministic: bool = True,
    preprocess: Callable[[Any], Any] | None = None,
    fractions: Fractions = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> Dataset:
    """Record what a policy does: observations → actions, split by episode.

    Args:
        policy: any object with `predict(observation, state, episode_start, deterministic)`, such as
            every algorithm of stable-baselines3.
        env: the environment it acts in, or its id; it must end its episodes.
        rows: how many steps to record at least; the last episode is finished.
        deterministic: the policy's most likely action, not a sample.
        preprocess: applied to the observation that the policy sees, not to the recorded one: for a
            policy trained under `VecNormalize`, its `normalize_obs`.
        fractions: shares of the splits, by episode.
        seed: of the environment and of the split.

    Returns:
        Inputs: flattened observations. Targets: flattened actions, or labels where actions are
        discrete. `meta["mean_return"]` is what the policy earned an episode.

    Raises:
        DataError: `rows` is not positive, or the policy has no `predict`.
        DataError: fewer than three episodes.
    """
    if rows < 1:
        raise DataError(f"rows must be at least 1; got {rows}.")
    if not callable(getattr(policy, "predict", None)):
        raise DataError(f"A policy needs a predict method; {type(policy).__name__} has none.")
    if isinstance(env, str):
        try:
            made: gymnasium.Env[Any, Any] = gymnasium.make(env)
        except gymnasium.error.Error as error:
            raise DataError(f"gymnasium cannot make {env!r}: {error}") from error
        try:
            return from_policy(
                policy,
                made,
                rows=rows,
                deterministic=deterministic,
                preprocess=preprocess,
                fractions=fractions,
                seed=seed,
            )
        finally:
            made.close()

    inputs: list[Array] = []
    targets: list[Array] = []
    episode: list[int] = []
    returns: list[float] = []
    while len(inputs) < rows:
        observation, _ = env.reset(seed=seed if not returns else None)
        state, start, total, done = None, np.ones(1, dtype=bool), 0.0, False
        while not done:
            seen = observation if preprocess is None else preprocess(observation)
            action, state = policy.predict(
                seen, state=state, episode_start=start, deterministic=deterministic
            )
            inputs.append(_flatten(env.observation_space, observation))
            targets.append(_flatten(env.action_space, action))
            episode.append(len(returns))
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done, start = total + float(reward), terminated or truncated, np.zeros(1, bool)
        returns.append(total)
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    meta = {"mean_return": float(np.mean(returns)), "episodes": len(returns), "seed": seed}
    return _dataset(name, inputs, targets, episode, env.action_space, meta, fractions, seed)


def from_minari(
    source: str | os.PathLike[str],
    *,
    fractions: Fractions = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> Dataset:
    """Observations → actions of a Minari data set that lies on disk; nothing is downloaded.

    Args:
        source: its folder (the one that holds `data`), or its id in Minari's own folder.
        fractions: shares of the splits, by episode.
        seed: of the split.

    Raises:
        DataError: there is none, or Minari cannot read it.
        MissingPackageError: Minari, or what it needs for this file's format, is not installed.
        DataError: fewer than three episodes.
    """
    minari = optional("minari", "Reading Minari data sets")
    folder = Path(source)
    data = folder if folder.name == "data" else folder / "data"
    try:
        stored = minari.MinariDataset(data) if data.is_dir() else minari.load_dataset(str(source))
        name, action_space = str(stored.spec.dataset_id), stored.action_space
        inputs: list[Array] = []
        targets: list[Array] = []
        episode: list[int] = []
        for recorded in stored.iterate_episodes():
            steps = len(_leaf(recorded.actions))
            for step in range(steps):
                observation = _at(recorded.observations, step)
                inputs.append(_flatten(stored.observation_space, observation))
                targets.append(_flatten(action_space, _at(recorded.actions, step)))
            episode += [int(recorded.id)] * steps
    except DataError:
        raise
    except ImportError as error:
        # Minari's storage formats have dependencies of their own, such as h5py.
        raise MissingPackageError(f"Minari cannot read {str(source)!r}: {error}") from error
    # What Minari raises for a missing or damaged folder depends on its storage back end.
    except Exception as error:
        raise DataError(
            f"There is no readable Minari data set at {str(source)!r} ({error}); give the folder "
            "that holds `data`, or the id of one that was downloaded."
        ) from error
    return _dataset(name, inputs, targets, episode, action_space, {}, fractions, seed)


def _leaf(values: Any) -> Any:  # noqa: ANN401 - nested dicts and tuples of arrays
    while isinstance(values, dict | tuple):
        values = next(iter(values.values() if isinstance(values, dict) else values))
    return values


def _at(values: Any, step: int) -> Any:  # noqa: ANN401
    if isinstance(values, dict):
        return {key: _at(value, step) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_at(value, step) for value in values)
    return values[step]


def _flatten(space: spaces.Space[Any], value: Any) -> Array:  # noqa: ANN401
    if isinstance(space, spaces.Discrete):
        return np.asarray(int(value) - int(space.start))
    if isinstance(space, spaces.Box) and np.shape(value) != space.shape:
        raise DataError(f"A value of shape {np.shape(value)} does not fit {space}.")
    if not space.is_np_flattenable:
        raise DataError(f"Values of {space} cannot be flattened to a row of numbers.")
    return np.asarray(spaces.flatten(space, value))


def _dataset(
    name: str,
    inputs: list[Array],
    targets: list[Array],
    episode: list[int],
    action_space: spaces.Space[Any],
    extra: dict[str, Any],
    fractions: Fractions,
    seed: int,
) -> Dataset:
    if not inputs:
        raise DataError(f"{name} holds no step at all.")
    x, y = np.stack(inputs), np.stack(targets)
    if x.ndim == 1:
        x = x[:, None]
    splits = split_rows(x, y, episode, fractions=fractions, seed=seed)
    actions = ["action"] if y.ndim == 1 else [f"action{i}" for i in range(y.shape[1])]
    return Dataset(
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        shifted=None,
        input_names=tuple(f"observation{i}" for i in range(x.shape[1])),
        input_units=("",) * x.shape[1],
        target_names=tuple(actions),
        target_units=("",) * len(actions),
        meta={"task": f"behaviour cloning of {name}", "split": splits.how, **extra},
    )
