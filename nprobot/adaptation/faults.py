"""Faults that strike a robot's actuators while it works, written as `gain:0=0.4`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nprobot.envs.actuators import ActuatorModel, GainDrift, GainLoss, OffsetDrift
from nprobot.errors import ConfigError, UnknownNameError

SECONDS = 20.0
"""How long a drift takes from its beginning until it stays where it is, simulated time."""
AT_ONCE = 1e-6
"""The same for what happens suddenly, s."""


def _gain(size: float, at: float, actuators: tuple[int, ...], seconds: float) -> ActuatorModel:
    return GainLoss(size, at, actuators=actuators)


def _offset(size: float, at: float, actuators: tuple[int, ...], seconds: float) -> ActuatorModel:
    return OffsetDrift(
        size / seconds, diffusion=0.0, limit=abs(size), start=at, actuators=actuators
    )


def _fade(size: float, at: float, actuators: tuple[int, ...], seconds: float) -> ActuatorModel:
    lost = size - 1.0
    return GainDrift(lost / seconds, diffusion=0.0, limit=abs(lost), start=at, actuators=actuators)


KINDS: dict[str, tuple[Callable[[float, float, tuple[int, ...], float], ActuatorModel], str]] = {
    "gain": (_gain, "what is left of the gain, at once"),
    "offset": (_offset, "an error of every command, in half ranges, at once"),
    "drift": (_offset, f"an error of every command that grows for {SECONDS:g} s, in half ranges"),
    "fade": (_fade, f"what is left of the gain after it has faded for {SECONDS:g} s"),
}
"""Kinds of faults: what makes their model, and what their size means."""
SUDDEN = ("gain", "offset")


@dataclass(frozen=True)
class ActuatorFault:
    """Something that happens to one actuator.

    Attributes:
        kind: a key of `KINDS`.
        actuator: its number, from 0 on.
        size: what `KINDS` says; a gain is at least 0.

    Raises:
        UnknownNameError: there is no such kind.
        ConfigError: a number is not allowed.
    """

    kind: str
    actuator: int
    size: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("fault", self.kind, KINDS, f"Known: {', '.join(KINDS)}.")
        if self.actuator < 0:
            raise ConfigError(f"actuators are numbered from 0 on, got {self.actuator}")
        if not math.isfinite(self.size):
            raise ConfigError(f"the size of a fault must be finite, got {self}")
        if self.kind in ("gain", "fade") and self.size < 0:
            raise ConfigError(f"what is left of a gain must be 0 or more, got {self}")

    def __str__(self) -> str:
        return f"{self.kind}:{self.actuator}={self.size:g}"

    def model(self, at: float, *, settled: bool = False) -> ActuatorModel:
        """The actuator model of the fault.

        Args:
            at: when it strikes, seconds of the device's time.
            settled: whether a drift has come to its end at once.
        """
        make, _ = KINDS[self.kind]
        seconds = AT_ONCE if settled or self.kind in SUDDEN else SECONDS
        return make(self.size, at, (self.actuator,), seconds)

    @classmethod
    def parse(cls, text: str) -> ActuatorFault:
        """The fault that a text such as ``gain:0=0.4`` means.

        Raises:
            ConfigError: it cannot be read.
        """
        name, _, size = text.partition("=")
        kind, _, actuator = name.partition(":")
        try:
            return cls(kind.strip(), int(actuator), float(size))
        except ValueError:
            raise ConfigError(
                f"cannot read the fault {text!r}; write KIND:ACTUATOR=SIZE, such as gain:0=0.4. "
                f"Kinds: {', '.join(KINDS)}."
            ) from None


def usual_faults(actuators: int) -> tuple[ActuatorFault, ...]:
    """One actuator loses 60 % of its gain, another (the same, if there is one) starts to drift."""
    return ActuatorFault("gain", 0, 0.4), ActuatorFault("drift", min(1, actuators - 1), 0.2)


def check_actuators(faults: Sequence[ActuatorFault], actuators: int) -> None:
    """Refuse faults of actuators that a robot does not have.

    Raises:
        ConfigError: there is one.
    """
    for fault in faults:
        if fault.actuator >= actuators:
            raise ConfigError(
                f"the fault {fault} is of actuator {fault.actuator}; this robot has "
                f"{actuators}, numbered from 0 to {actuators - 1}"
            )
