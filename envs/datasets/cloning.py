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
from .demonstrations import Demonstration, Demonstrations
from .loaders import PathLike
from .splitting import Fractions

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
    parts: list[Demonstration] = []
    returns: list[float] = []
    steps = 0
    try:
        while steps < rows:
            observation, _ = made.reset(seed=seed if not returns else None)
            state, start, total, done = None, np.ones(1, dtype=bool), 0.0, False
            seen_here: list[Array] = []
            told: list[Array] = []
            while not done:
                seen = observation if preprocess is None else preprocess(observation)
                action, state = policy.predict(
                    seen, state=state, episode_start=start, deterministic=deterministic
                )
                seen_here.append(_flatten(made.observation_space, observation))
                told.append(_flatten(made.action_space, action))
                observation, reward, terminated, truncated, _ = made.step(action)
                total, done = total + float(reward), terminated or truncated
                start = np.zeros(1, dtype=bool)
            parts.append(Demonstration(_as_rows(seen_here), np.stack(told)))
            returns.append(total)
            steps += len(told)
    finally:
        if made is not env:
            made.close()
    name = made.spec.id if made.spec is not None else type(made.unwrapped).__name__
    return Demonstrations(name, parts).rows(
        fractions=fractions,
        how="trajectory",
        seed=seed,
        mean_return=float(np.mean(returns)),
        seed_of_episodes=seed,
    )


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
    return read_minari(source).rows(fractions=fractions, how="trajectory", seed=seed)


def read_minari(source: PathLike) -> Demonstrations:
    """The demonstrations in a Minari data set; see `from_minari`.

    The environment is the one that the data set was collected in, wrappers aside.
    """
    minari = import_optional("minari", "Reading Minari data sets")
    folder = Path(source)
    data = folder if folder.name == "data" else folder / "data"
    try:
        stored = minari.MinariDataset(data) if data.is_dir() else minari.load_dataset(str(source))
        name, spec = str(stored.spec.dataset_id), stored.spec.env_spec
        parts = []
        for recorded in stored.iterate_episodes():
            steps = len(recorded.rewards)
            if steps == 0:
                continue
            # The last observation is the one after the last action.
            seen = _each(stored.observation_space, recorded.observations, steps + 1)[:-1]
            told = _each(stored.action_space, recorded.actions, steps)
            parts.append(Demonstration(_as_rows(seen), np.stack(told)))
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
    kwargs: dict[str, Any] = {}
    if spec is not None:
        kwargs = {key: value for key, value in spec.kwargs.items() if key != "render_mode"}
        known = gymnasium.registry.get(spec.id)
        if spec.max_episode_steps and (
            known is None or known.max_episode_steps != spec.max_episode_steps
        ):
            kwargs["max_episode_steps"] = spec.max_episode_steps
    return Demonstrations(name, parts, None if spec is None else spec.id, kwargs)


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


def _as_rows(observations: list[Array]) -> Array:
    rows = np.stack(observations)
    return rows[:, None] if rows.ndim == 1 else rows
