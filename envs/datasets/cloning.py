"""Behaviour cloning: observation → action rows from a policy, or from a Minari data set on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from ...errors import ConfigError, DataError, MissingPackageError
from .columns import import_optional
from .dataset import Dataset
from .loaders import PathLike
from .splitting import Fractions, split_rows

Array = NDArray[Any]


class Predictor(Protocol):
    """Anything with the `predict` of stable-baselines3."""

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
    policy: Predictor,
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
        seed: the seed of the environment and of the split.

    Returns:
        Flattened observations as inputs, and flattened actions as targets, or labels where actions
        are discrete. `meta["mean_return"]` is what the policy earned an episode.

    Raises:
        ConfigError: `rows` is not positive, the policy has no `predict`, or gymnasium cannot make
            the environment.
        DataError: fewer than three episodes.
    """
    if rows < 1:
        raise ConfigError(f"rows must be at least 1; got {rows}.")
    if not callable(getattr(policy, "predict", None)):
        raise ConfigError(f"A policy needs a predict method; {type(policy).__name__} has none.")
    made = _made(env) if isinstance(env, str) else env
    inputs: list[Array] = []
    targets: list[Array] = []
    episode: list[int] = []
    returns: list[float] = []
    try:
        while len(inputs) < rows:
            observation, _ = made.reset(seed=seed if not returns else None)
            state, start, total, done = None, np.ones(1, dtype=bool), 0.0, False
            while not done:
                seen = observation if preprocess is None else preprocess(observation)
                action, state = policy.predict(
                    seen, state=state, episode_start=start, deterministic=deterministic
                )
                inputs.append(_flatten(made.observation_space, observation))
                targets.append(_flatten(made.action_space, action))
                episode.append(len(returns))
                observation, reward, terminated, truncated, _ = made.step(action)
                total, done = total + float(reward), terminated or truncated
                start = np.zeros(1, dtype=bool)
            returns.append(total)
    finally:
        if made is not env:
            made.close()
    name = made.spec.id if made.spec is not None else type(made.unwrapped).__name__
    meta = {"mean_return": float(np.mean(returns)), "episodes": len(returns), "seed": seed}
    return _dataset(name, inputs, targets, episode, fractions, seed, meta)


def from_minari(
    source: PathLike,
    *,
    fractions: Fractions = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> Dataset:
    """Observations → actions of a Minari data set that lies on disk; nothing is downloaded.

    Args:
        source: its folder (the one that holds `data`), or its id in Minari's own folder.
        fractions: shares of the splits, by episode.
        seed: the seed of the split.

    Raises:
        DataError: there is none, Minari cannot read it, or it has fewer than three episodes.
        MissingPackageError: Minari, or what it needs for this file's format, is not installed.
    """
    minari = import_optional("minari", "Reading Minari data sets")
    folder = Path(source)
    data = folder if folder.name == "data" else folder / "data"
    try:
        stored = minari.MinariDataset(data) if data.is_dir() else minari.load_dataset(str(source))
        name, action_space = str(stored.spec.dataset_id), stored.action_space
        inputs: list[Array] = []
        targets: list[Array] = []
        episode: list[int] = []
        for recorded in stored.iterate_episodes():
            steps = len(recorded.rewards)
            # The last observation is the one after the last action.
            observations = _each(stored.observation_space, recorded.observations, steps + 1)
            inputs += observations[:-1]
            targets += _each(action_space, recorded.actions, steps)
            episode += [int(recorded.id)] * steps
    except DataError:
        raise
    except ImportError as error:
        # Minari's storage formats have more dependencies, such as h5py.
        raise MissingPackageError(f"Minari cannot read {str(source)!r}: {error}") from error
    # What Minari raises for a missing or damaged folder depends on its storage back end.
    except Exception as error:
        raise DataError(
            f"There is no readable Minari data set at {str(source)!r} ({error}); give the folder "
            "that holds `data`, or the id of one that was downloaded."
        ) from error
    return _dataset(name, inputs, targets, episode, fractions, seed, {})


def _made(name: str) -> gymnasium.Env[Any, Any]:
    try:
        return gymnasium.make(name)
    except gymnasium.error.Error as error:
        raise ConfigError(f"gymnasium cannot make {name!r}: {error}") from error


def _each(space: spaces.Space[Any], values: Any, count: int) -> list[Array]:  # noqa: ANN401
    """`count` values that are stacked at every leaf of a nested space, each as a row."""
    return [_flatten(space, value) for value in iterate(batch_space(space, count), values)]


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
    fractions: Fractions,
    seed: int,
    meta: dict[str, Any],
) -> Dataset:
    if not inputs:
        raise DataError(f"{name} holds no step at all.")
    x, y = np.stack(inputs), np.stack(targets)
    if x.ndim == 1:
        x = x[:, None]
    splits = split_rows(x, y, episode, fractions=fractions, seed=seed)
    observations = [f"observation{i}" for i in range(x.shape[1])]
    actions = ["action"] if y.ndim == 1 else [f"action{i}" for i in range(y.shape[1])]
    return splits.as_dataset(f"behaviour cloning of {name}", observations, actions, **meta)
