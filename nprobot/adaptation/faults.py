"""Faults that strike a robot's actuators while it works, written as `gain:0=0.4`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nprobot.envs.actuators import ActuatorModel, GainDrift, GainLoss, OffsetDrift
from nprobot.errors import ConfigError, UnknownNameError

SECONDS = 20.0
"""How long a drift takes from its beginning until it stays where it is, simulated time."""
AT_ONCE = 1e-6
"""The same for what happens suddenly, s."""


KINDS = {
    "gain": "what is left of the gain, at once",
    "offset": "an error of every command, in half ranges, at once",
    "stuck": "where it stays whatever it is told, in half ranges, at once",
    "drift": f"an error of every command that grows for {SECONDS:g} s, in half ranges",
    "fade": f"what is left of the gain after it has faded for {SECONDS:g} s",
}
"""Kinds of faults, and what their size means."""
SUDDEN = ("gain", "offset")
GAINS = ("gain", "fade")


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
        if self.kind in GAINS and self.size < 0:
            raise ConfigError(f"what is left of a gain must be 0 or more, got {self}")

    def __str__(self) -> str:
        return f"{self.kind}:{self.actuator}={self.size:g}"

    def model(self, at: float, *, settled: bool = False) -> ActuatorModel:
        """The actuator model of the fault.

        Args:
            at: when it strikes, seconds of the device's time.
            settled: whether a drift has come to its end at once.
        """
        own = (self.actuator,)
        if self.kind == "gain":
            return GainLoss(self.size, at, actuators=own)
        if self.kind == "stuck":
            return GainLoss(0.0, at, self.size, actuators=own)
        seconds = AT_ONCE if settled or self.kind in SUDDEN else SECONDS
        kind, end = (GainDrift, self.size - 1) if self.kind == "fade" else (OffsetDrift, self.size)
        return kind(end / seconds, diffusion=0.0, limit=abs(end), start=at, actuators=own)

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
