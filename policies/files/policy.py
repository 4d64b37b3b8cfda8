"""A deterministic controller in plain numpy: what a policy file describes, ready to act.

Neither torch nor stable-baselines3 is imported here, so that a robot needs neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ...catalogue import FEEDBACK
from ...errors import ArchitectureError, ObservationError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

LARGEST = 256 * 2**20
"""Bytes of a file with numbers that is read at all."""
LARGEST_OBSERVATION = 2**24
"""Numbers of an observation."""
MOST_OPERATIONS, MOST_CHOICES = 1000, 1000
MOST_WORK = 2**28
"""Multiplications of a step; a policy of 64 million weights would have that many."""


@dataclass(frozen=True)
class OperationKind:
    """A kind of layer that a policy file knows; a new one costs an entry in `KINDS`.

    Attributes:
        compute: from a batch (B, *shape), with arrays and settings, to (B, *output shape).
        module: the class of `torch.nn` that computes the same; its settings have the same names.
        arrays: names of its arrays.
        settings: names of its numbers.
        output_shape: from the shape of one input, with the arrays, to that of one output.
    """

    compute: Callable[..., Array]
    module: str
    arrays: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    output_shape: Callable[..., Shape] = lambda shape: shape


def _linear_shape(shape: Shape, weight: Array, bias: Array) -> Shape:
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ArchitectureError(f"weight {weight.shape} and bias {bias.shape} do not fit")
    if shape != weight.shape[1:]:
        raise ArchitectureError(f"linear takes {weight.shape[1]} inputs and gets {shape}")
    return bias.shape


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _sigmoid(x: Array) -> Array:
    # With tanh, so that no exponential overflows.
    return 0.5 * (np.tanh(0.5 * x) + 1)


def _gelu(x: Array) -> Array:
    # numpy has no error function; one call for each number is slow but exact.
    return x * (0.5 + 0.5 * np.asarray(_erf(x / math.sqrt(2)), dtype=x.dtype))


_erf = np.frompyfunc(math.erf, 1, 1)

KINDS: Mapping[str, OperationKind] = {
    "linear": OperationKind(
        lambda x, weight, bias: x @ weight.T + bias,
        "Linear",
        arrays=("weight", "bias"),
        output_shape=_linear_shape,
    ),
    "flatten": OperationKind(
        lambda x: x.reshape(len(x), -1), "Flatten", output_shape=lambda shape: (math.prod(shape),)
    ),
    "identity": OperationKind(lambda x: x, "Identity"),
    "tanh": OperationKind(np.tanh, "Tanh"),
    "relu": OperationKind(lambda x: np.maximum(x, 0), "ReLU"),
    "leaky_relu": OperationKind(
        lambda x, negative_slope: np.where(x > 0, x, x * negative_slope),
        "LeakyReLU",
        settings=("negative_slope",),
    ),
    "elu": OperationKind(_elu, "ELU", settings=("alpha",)),
    "gelu": OperationKind(_gelu, "GELU"),
    "silu": OperationKind(lambda x: x * _sigmoid(x), "SiLU"),
    "sigmoid": OperationKind(_sigmoid, "Sigmoid"),
}
"""What the network of a policy file is made of, by name."""


@dataclass(frozen=True)
class Operation:
    """One step of a network.

    Attributes:
        name: a key of `KINDS`.
        arrays: weight (n, d) and bias (n,) of "linear"; nothing for the others.
        settings: numbers such as the slope of "leaky_relu".

    Raises:
        ArchitectureError: the name is unknown, or something it needs is missing or not finite.
    """

    name: str
    arrays: Mapping[str, Array] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise ArchitectureError(f"unknown operation {self.name!r}; known: {', '.join(KINDS)}")
        kind = KINDS[self.name]
        for what, given, needed in (
            ("arrays", self.arrays, kind.arrays),
            ("settings", self.settings, kind.settings),
        ):
            if set(given) != set(needed):
                raise ArchitectureError(f"{self.name} takes the {what} {needed}, got {(*given,)}")
        for name, array in self.arrays.items():
            if array.dtype.kind != "f":
                raise ArchitectureError(f"the {name} of {self.name} are {array.dtype}, not floats")
        for name, value in (*self.arrays.items(), *self.settings.items()):
            if not np.isfinite(np.asarray(value)).all():
                raise ArchitectureError(f"the {name} of {self.name} is not finite")

    def __call__(self, x: Array) -> Array:
        """The operation on a batch of rows, (B, *shape) to (B, *output shape)."""
        return KINDS[self.name].compute(x, **self.arrays, **self.settings)

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of one output for the shape of one input.

        Raises:
            ArchitectureError: the operation does not take such an input.
        """
        return KINDS[self.name].output_shape(shape, **self.arrays)

    def describe(self, prefix: str, store: Callable[[str, Array], str]) -> dict[str, Any]:
        """The operation as a JSON object; `store` keeps an array and returns its name."""
        arrays = {name: store(f"{prefix}.{name}", array) for name, array in self.arrays.items()}
        return {"op": self.name, **arrays, **self.settings}

    @classmethod
    def read(cls, entry: Mapping[str, Any], tensors: Mapping[str, Array]) -> Operation:
        """The operation that `describe` described.

        Raises:
            ArchitectureError: there is no such operation.
            KeyError: it names a tensor that is not there.
        """
        arrays = {k: tensors[v] for k, v in entry.items() if k != "op" and isinstance(v, str)}
        settings = {k: float(v) for k, v in entry.items() if k != "op" and not isinstance(v, str)}
        return cls(entry["op"], arrays, settings)


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

    choices: Shape
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
class ControlTask:
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
        normaliser: the normaliser of the observations; None if they go in as they are.
        task: the environment it was trained on; None for a policy without one.
        provenance: how it was trained (algorithm, rule, steps, seed, versions); JSON values.

    Raises:
        ArchitectureError: the parts do not fit each other, or hold NaN or infinity.
    """

    observation_shape: Shape
    operations: tuple[Operation, ...]
    action: BoxAction | DiscreteAction
    normaliser: Normaliser | None = None
    task: ControlTask | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ArchitectureError(f"not a usable policy: {problem}")

    def __repr__(self) -> str:
        """What it is, without its weights."""
        task = "no environment" if self.task is None else self.task.id
        return (
            f"<Policy for {task}: observations {self.observation_shape}, {len(self.operations)} "
            f"operations, {self.action.outputs} outputs>"
        )

    def predict(self, observation: npt.ArrayLike) -> Array:
        """The action for each observation, inside the bounds of the action space.

        Args:
            observation: shape (…, *observation_shape), raw (not normalised).

        Returns:
            Actions, shape (…, *action shape).

        Raises:
            ObservationError: the trailing dimensions are not `observation_shape`.
        """
        lead, x = as_batch(observation, self.observation_shape)
        if self.normaliser is not None:
            x = self.normaliser(x)
        x = x.astype(np.float32)
        for operation in self.operations:
            x = operation(x)
        actions = self.action(x)
        return actions.reshape(lead + actions.shape[1:])

    def _problems(self) -> Iterator[str]:
        """What makes the policy unusable, in words."""
        if (problem := shape_problem(self.observation_shape)) is not None:
            yield f"observation shape {problem}"
        if len(self.operations) > MOST_OPERATIONS:
            yield f"{len(self.operations):,} operations; at most {MOST_OPERATIONS:,} are allowed"
        shape, work = self.observation_shape, 0
        for number, operation in enumerate(self.operations):
            work += max(math.prod(shape), *(a.size for a in operation.arrays.values()), 0)
            if work > MOST_WORK:
                yield f"more than {MOST_WORK:,} multiplications a step"
            try:
                shape = operation.output_shape(shape)
            except ArchitectureError as error:
                yield f"operation {number} of the network: {error}"
        if shape != (self.action.outputs,):
            yield f"the network gives {shape} outputs; the actions need ({self.action.outputs},)"
        if self.normaliser is not None:
            for name, array in (("mean", self.normaliser.mean), ("var", self.normaliser.var)):
                fits = array.dtype.kind == "f" and array.shape == self.observation_shape
                if not (fits and np.isfinite(array).all()):
                    yield f"the {name} of the observations is not {self.observation_shape} floats"
            if (self.normaliser.var < 0).any() or not self.normaliser.epsilon > 0:
                yield "the variance of the observations is negative"
            if not self.normaliser.clip > 0:
                yield f"observations are clipped at {self.normaliser.clip}"
        yield from self._action_problems()

    def _action_problems(self) -> Iterator[str]:
        action = self.action
        if isinstance(action, DiscreteAction):
            if (problem := choices_problem(action.choices)) is not None:
                yield problem
            if len(action.choices) != 1 and not action.several:
                yield "several switches, but one action"
            return
        if action.mapping not in ("clip", "rescale"):
            yield f"unknown mapping of outputs to actions: {action.mapping!r}"
        if not action.low.dtype.kind == action.high.dtype.kind == "f":
            yield f"bounds of actions are {action.low.dtype} and {action.high.dtype}, not floats"
        if action.low.shape != action.high.shape or not holds_an_action(action.low, action.high):
            yield "the bounds of the actions do not fit each other"
        if action.mapping == "rescale" and not np.isfinite([action.low, action.high]).all():
            yield "actions without bounds cannot be rescaled"


def shape_problem(shape: Shape) -> str | None:
    """What is wrong with the shape of an observation; None if it is a shape, and not too large."""
    if not all(type(size) is int and size >= 1 for size in shape):
        return f"{shape!s:.80}"
    if len(shape) > 8 or math.prod(shape) > LARGEST_OBSERVATION:
        return f"{shape!s:.80}; up to 8 axes and {LARGEST_OBSERVATION:,} numbers are allowed"
    return None


def holds_an_action(low: Array, high: Array) -> bool:
    """Whether there is a finite number between bounds everywhere; they may be infinite outwards."""
    return bool(((low <= high) & (low < math.inf) & (high > -math.inf)).all())


def choices_problem(choices: Shape) -> str | None:
    """What is wrong with the choices of a discrete action; None if nothing is."""
    numbers = all(type(n) is int and 1 <= n <= LARGEST_OBSERVATION for n in choices)
    if not numbers or not 1 <= len(choices) <= MOST_CHOICES:
        return f"a choice between {choices!s:.80} actions"
    return None


def as_batch(observation: npt.ArrayLike, shape: Shape) -> tuple[Shape, Array]:
    """Observations with any leading axes as one batch.

    Args:
        observation: shape (…, *shape).
        shape: the shape of one observation.

    Returns:
        The leading axes, and the batch (B, *shape).

    Raises:
        ObservationError: the trailing dimensions are others.
    """
    given = np.asarray(observation)
    lead = given.shape[: max(given.ndim - len(shape), 0)]
    if given.shape != lead + shape:
        raise ObservationError(
            f"observation has shape {given.shape}; this policy takes "
            f"(…, {', '.join(map(str, shape))})"
        )
    return lead, given.reshape(-1, *shape)


class _Scores(msgspec.Struct):
    env: str
    seed: int
    returns: list[float]
    lengths: list[float]
    versions: dict[str, str | None]
    tracking: dict[str, Any] | None = None


class _Provenance(msgspec.Struct):
    """What is known of how a policy was made, as far as anybody reads it."""

    algorithm: str | None = None
    rule: str | None = None
    samples: int | None = None
    steps: int | None = None
    epochs: int | None = None
    task: str | None = None
    seed: int | None = None
    licence: str | None = None
    command: str | None = None
    description: str | None = None
    forward_passes: int | None = None
    backward_passes: int | None = None
    action_std: list[float] | None = None
    versions: dict[str, str | None] | None = None
    evaluation: _Scores | None = None


def check_provenance(provenance: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """The provenance in a file, if what cards and commands show of it is of the right kind.

    Raises:
        ValueError: it is not.
    """
    try:
        msgspec.convert(provenance, _Provenance)
    except msgspec.ValidationError as error:
        raise ValueError(f"its provenance is of another kind: {error}") from None
    return dict(provenance)


def recorded_rule(provenance: Mapping[str, Any]) -> str:
    """The rule that a policy was learned by, such as ``"np+feedback"``; empty if not recorded."""
    rule = str(provenance.get("rule") or "")
    # Earlier versions said it in two words.
    feedback = provenance.get("feedback") and not rule.endswith(FEEDBACK)
    return f"{rule}{FEEDBACK}" if rule and feedback else rule
