"""A deterministic controller in plain numpy: what a policy file describes, ready to act.

Neither torch nor stable-baselines3 is imported here, so that a robot needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import ArchitectureError, ObservationError
from .operations import Operation

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Normaliser:
    """Running mean and variance of the observations, frozen at the end of training.

    Attributes:
        mean: shape of one observation.
        var: the same shape.
        epsilon: added to the variance.
        clip: bound of the normalised observation, both sides.
    """

    mean: Array
    var: Array
    epsilon: float
    clip: float

    def __call__(self, observations: Array) -> Array:
        """Normalised observations, same shape (B, *observation)."""
        scaled: Array = (observations - self.mean) / np.sqrt(self.var + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip)


@dataclass(frozen=True)
class BoxAction:
    """Continuous actions.

    Attributes:
        low: lower bounds, shape of one action; infinite where there is none.
        high: upper bounds.
        mapping: "clip" cuts the network's outputs at the bounds; "rescale" stretches outputs in
            [-1, 1] (a squashed policy) to them.
    """

    low: Array
    high: Array
    mapping: str = "clip"

    @property
    def outputs(self) -> int:
        """How many outputs the network has."""
        return self.low.size

    def __call__(self, outputs: Array) -> Array:
        """Actions (B, *action) of network outputs (B, outputs)."""
        actions = outputs.reshape(-1, *self.low.shape)
        if self.mapping == "rescale":
            actions = self.low + 0.5 * (actions + 1) * (self.high - self.low)
        return np.clip(actions, self.low, self.high)


@dataclass(frozen=True)
class DiscreteAction:
    """One of n actions, or one of n for each of several switches: the largest output wins.

    Attributes:
        choices: how many actions there are, for each switch.
        several: whether an action is a vector with one number for each switch.
    """

    choices: tuple[int, ...]
    several: bool = False

    @property
    def outputs(self) -> int:
        """How many outputs the network has."""
        return sum(self.choices)

    def __call__(self, outputs: Array) -> Array:
        """Actions, shape (B,) or (B, switches), of network outputs (B, outputs)."""
        parts = np.split(outputs, np.cumsum(self.choices)[:-1], axis=-1)
        actions = np.stack([part.argmax(-1) for part in parts], axis=-1)
        return actions if self.several else actions[:, 0]


@dataclass(frozen=True)
class Task:
    """What the policy was trained to control.

    Attributes:
        id: gymnasium id of the environment.
        kwargs: arguments of `gymnasium.make` beside the id.
        control_rate: how often the policy acts, Hz of simulated time; None if not known.
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    control_rate: float | None = None


@dataclass(frozen=True)
class Policy:
    """A deterministic controller: observation in, action out.

    Attributes:
        observation_shape: shape of one observation.
        operations: the network, in order.
        action: how outputs become actions.
        normaliser: of the observations; None if they go in as they are.
        task: the environment it was trained on; None for a policy without one.
        provenance: how it was trained (algorithm, rule, steps, seed, versions); JSON values.

    Raises:
        ArchitectureError: the parts do not fit each other, or hold NaN or infinity.
    """

    observation_shape: tuple[int, ...]
    operations: tuple[Operation, ...]
    action: BoxAction | DiscreteAction
    normaliser: Normaliser | None = None
    task: Task | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ArchitectureError(f"not a usable policy: {problem}")

    def predict(self, observation: npt.ArrayLike) -> Array:
        """The action for each observation, inside the bounds of the action space.

        Args:
            observation: shape (…, *observation_shape), raw (not normalised).

        Returns:
            Actions, shape (…, *action shape).

        Raises:
            ObservationError: the trailing dimensions are not `observation_shape`.
        """
        given = np.asarray(observation)
        lead = given.shape[: max(given.ndim - len(self.observation_shape), 0)]
        if given.shape != lead + self.observation_shape:
            raise ObservationError(
                f"observation has shape {given.shape}; this policy takes "
                f"(…, {', '.join(map(str, self.observation_shape))})"
            )
        x = given.reshape(-1, *self.observation_shape)
        if self.normaliser is not None:
            x = self.normaliser(x)
        x = x.astype(np.float32)
        for operation in self.operations:
            x = operation(x)
        actions = self.action(x)
        return actions.reshape(lead + actions.shape[1:])

    def _problems(self) -> Iterator[str]:
        """What makes the policy unusable, in words."""
        if not all(isinstance(size, int) and size >= 1 for size in self.observation_shape):
            yield f"observation shape {self.observation_shape}"
        shape: tuple[int, ...] = self.observation_shape
        for number, operation in enumerate(self.operations):
            try:
                shape = operation.output_shape(shape)
            except ArchitectureError as error:
                yield f"operation {number} of the network: {error}"
        if shape != (self.action.outputs,):
            yield f"the network gives {shape} outputs; the actions need ({self.action.outputs},)"
        if self.normaliser is not None:
            for name, array in (("mean", self.normaliser.mean), ("var", self.normaliser.var)):
                if array.shape != self.observation_shape or not np.isfinite(array).all():
                    yield f"the {name} of the observations is not {self.observation_shape} numbers"
            if (self.normaliser.var < 0).any() or not self.normaliser.epsilon > 0:
                yield "the variance of the observations is negative"
            if not self.normaliser.clip > 0:
                yield f"observations are clipped at {self.normaliser.clip}"
        yield from self._action_problems()

    def _action_problems(self) -> Iterator[str]:
        action = self.action
        if isinstance(action, DiscreteAction):
            if not action.choices or not all(n >= 1 for n in action.choices):
                yield f"a choice between {action.choices} actions"
            if len(action.choices) != 1 and not action.several:
                yield "several switches, but one action"
            return
        if action.mapping not in ("clip", "rescale"):
            yield f"unknown mapping of outputs to actions: {action.mapping!r}"
        if action.low.shape != action.high.shape or not (action.low <= action.high).all():
            yield "the bounds of the actions do not fit each other"
        if action.mapping == "rescale" and not np.isfinite([action.low, action.high]).all():
            yield "actions without bounds cannot be rescaled"
