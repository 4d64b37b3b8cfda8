"""What a robot saw and was told, episode by episode, and the rows from which it can be cloned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ...errors import ConfigError, DataError
from .dataset import Dataset
from .splitting import Fractions, How, split_rows

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Demonstration:
    """Steps without a gap, T of them.

    Attributes:
        observations: `(T, numbers)`, before the action of the same row.
        actions: `(T, numbers)`; labels `(T,)` where actions are discrete.
        whole: whether an episode begins with the first row; otherwise what came before is unknown.
    """

    observations: Array
    actions: Array
    whole: bool = True

    def __post_init__(self) -> None:
        if len(self.observations) != len(self.actions) or self.observations.ndim != 2:
            raise DataError(
                f"A demonstration needs an action for each observation; got observations of shape "
                f"{self.observations.shape} and actions of shape {self.actions.shape}."
            )


@dataclass(frozen=True)
class Demonstrations:
    """Demonstrations on one robot.

    Attributes:
        source: what they are called.
        episodes: one or more.
        env: id of the environment; None where the data do not say.
        kwargs: its arguments.
        actuators: preset of noisy actuators that stood before the robot; None for none.
        rate: steps a second, Hz; None if not known.
        observation_names: one a number, or none.
        action_names: the same.
        notes: how they were read, for people.
    """

    source: str
    episodes: Sequence[Demonstration] = field(repr=False)
    env: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    actuators: str | None = None
    rate: float | None = None
    observation_names: Sequence[str] = ()
    action_names: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.episodes:
            raise DataError(f"{self.source} holds no step that could be cloned.")
        widths = {(e.observations.shape[1], e.actions.shape[1:]) for e in self.episodes}
        if len(widths) > 1:
            raise DataError(
                f"The episodes of {self.source} differ in width, (observation, action): "
                f"{sorted(widths)}. Clone robots one at a time."
            )

    def rows(
        self,
        *,
        history: int = 1,
        chunk: int = 1,
        fractions: Fractions = (0.7, 0.15, 0.15),
        how: How = "auto",
        seed: int = 0,
        **meta: Any,
    ) -> Dataset:
        """Observations to actions, split by episode.

        Args:
            history: observations in a row, the last ones, oldest first. Before an episode's first
                one, that is repeated, as gymnasium's `FrameStackObservation` does.
            chunk: actions in a row, from the present one on. The last rows of an episode, which
                have fewer, are left out.
            fractions: shares of the splits.
            how: how to split, see `split_rows`; "auto" for by episode, and in blocks of time
                (labels: by rows) where there are fewer than three episodes.
            seed: the seed of the split.
            **meta: what else to say of the data.

        Raises:
            ConfigError: `history` or `chunk` is below 1, or chunks of discrete actions.
            DataError: no episode is long enough, or there are too few for the split.
        """
        if history < 1 or chunk < 1:
            raise ConfigError(f"history and chunk are 1 or more; got {history} and {chunk}.")
        discrete = self.episodes[0].actions.ndim == 1
        if discrete and chunk > 1:
            raise ConfigError("Chunks are of continuous actions; these are discrete.")
        inputs, targets, labels = [], [], []
        for number, episode in enumerate(self.episodes):
            x, y = stacked(episode, history), episode.actions
            y = y[len(y) - len(x) :]
            if chunk > 1 and len(y) >= chunk:
                y = (
                    sliding_window_view(y, chunk, axis=0)
                    .swapaxes(1, 2)
                    .reshape(-1, chunk * y.shape[1])
                )
            elif chunk > 1:
                y = y[:0].reshape(0, chunk * y.shape[1])
            inputs.append(x[: len(y)])
            targets.append(y)
            labels.append(np.full(len(y), number))
        x, y, label = (np.concatenate(part) for part in (inputs, targets, labels))
        if len(x) == 0:
            raise DataError(
                f"No episode of {self.source} has the {history} observations and {chunk} actions "
                "of a row; ask for a shorter history or chunk."
            )
        if how == "auto":
            many = len(np.unique(label)) >= 3
            how = "trajectory" if many else "rows" if discrete else "blocks"
        splits = split_rows(
            x,
            y,
            label if how == "trajectory" else None,
            fractions=fractions,
            how=how,
            seed=seed,
        )
        told: dict[str, Any] = {"episodes": len(self.episodes), **meta}
        if self.notes:
            told["read"] = list(self.notes)
        if self.rate is not None:
            told["rate"] = self.rate
        names = ["action"]
        if not discrete:
            names = _named(self.action_names, "action", y.shape[1] // chunk, chunk, 0)
        seen = _named(
            self.observation_names, "observation", x.shape[1] // history, history, 1 - history
        )
        return splits.as_dataset(f"behaviour cloning of {self.source}", seen, names, **told)


def stacked(episode: Demonstration, history: int) -> Array:
    """The last observations of every step side by side, oldest first, `(rows, history · numbers)`.

    A row for every step of a whole episode; of another one, for those whose past is known.
    """
    seen = episode.observations
    if history == 1:
        return seen
    if episode.whole:
        seen = np.concatenate([np.repeat(seen[:1], history - 1, axis=0), seen])
    if len(seen) < history:
        return seen[:0].reshape(0, history * seen.shape[1])
    windows = sliding_window_view(seen, history, axis=0)
    return windows.swapaxes(1, 2).reshape(len(windows), -1)


def _named(given: Sequence[str], kind: str, width: int, times: int, first: int) -> list[str]:
    """Names of columns, with how many steps from now they are where there are several."""
    names = list(given) if len(given) == width else [f"{kind}{i}" for i in range(width)]
    if times == 1:
        return names
    steps = range(first, first + times)
    return [f"{name}@{step:+d}" if step else name for step in steps for name in names]
