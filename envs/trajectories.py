"""Smooth joint trajectories that look like a robot's recordings: rhythmic and point-to-point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError

Array = NDArray[np.float64]

#: Peak speed and peak acceleration of a minimum-jerk move of unit length and unit duration.
_PEAK_SPEED = 15 / 8
_PEAK_ACCELERATION = 10 / np.sqrt(3)
#: Seed of the patterns of `synergies`: part of what the data is, not of a run.
_PATTERNS = 7


@dataclass(frozen=True, eq=False)
class JointLimits:
    """Where and how fast joints may move.

    Attributes:
        low: lower positions, shape `(joints,)`, rad (m for sliding joints).
        high: upper positions, same shape and unit.
        speed: highest speeds, rad/s (m/s).
        acceleration: highest accelerations, rad/s² (m/s²).
    """

    low: Array
    high: Array
    speed: Array
    acceleration: Array

    def __post_init__(self) -> None:
        shape = np.shape(self.low)
        for name in ("low", "high", "speed", "acceleration"):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.ndim != 1 or value.shape != shape:
                raise ConfigError(
                    f"JointLimits.{name} has shape {value.shape}; all four fields must be vectors "
                    f"with one entry a joint, and `low` has shape {shape}."
                )
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        numbers = np.concatenate([self.low, self.high, self.speed, self.acceleration])
        if not np.isfinite(numbers).all():
            raise ConfigError("JointLimits must be finite numbers.")
        if (self.low >= self.high).any():
            raise ConfigError(
                f"JointLimits needs low < high for every joint; got {self.low} and {self.high}."
            )
        if (self.speed <= 0).any() or (self.acceleration <= 0).any():
            raise ConfigError("JointLimits needs positive speeds and accelerations.")

    def __len__(self) -> int:
        return len(self.low)

    def scaled(self, speed: float) -> JointLimits:
        """The limits of the same motion at `speed` times the pace (accelerations at its square)."""
        if not speed > 0:
            raise ConfigError(f"speed must be positive, got {speed}.")
        return JointLimits(self.low, self.high, self.speed * speed, self.acceleration * speed**2)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Joint positions, velocities and accelerations at equally spaced times.

    Attributes:
        time: `(steps,)`, s.
        position: `(steps, joints)`, rad.
        velocity: `(steps, joints)`, rad/s; the exact derivative of `position`.
        acceleration: `(steps, joints)`, rad/s²; the exact derivative of `velocity`.
    """

    time: Array
    position: Array
    velocity: Array
    acceleration: Array

    def __len__(self) -> int:
        return len(self.time)


def _times(duration: float, rate: float) -> Array:
    if not (duration > 0 and rate > 0):
        raise ConfigError(
            f"A trajectory needs a positive duration and rate; got {duration} s and {rate} Hz."
        )
    steps = round(duration * rate)
    if steps < 1:
        raise ConfigError(
            f"A trajectory of {duration} s at {rate} Hz has no sample; take at least {1 / rate} s."
        )
    return np.arange(steps) / rate


def synergies(joints: int, strength: float, rank: int = 3) -> NDArray[np.float64]:
    """How joints move together: the mixing of independent signals into joint motion.

    Robots at work do not move their joints independently, and their recordings show it: a few
    common patterns explain most of the motion. Here `rank` patterns, the same for every call,
    carry the share `strength` of each joint's motion, and a signal of its own carries the rest.

    Args:
        joints: number of joints.
        strength: 0 for independent joints, towards 1 for joints that move in patterns only.
        rank: number of patterns.

    Returns:
        `(joints, rank + joints)`, each row of absolute sum 1: signals in [-1, 1] stay there.
    """
    if not (0 <= strength <= 1 and rank >= 1 and joints >= 1):
        raise ConfigError(
            f"synergies needs 0 ≤ strength ≤ 1, rank ≥ 1 and joints ≥ 1; got {strength}, {rank} "
            f"and {joints}."
        )
    patterns = np.random.default_rng(_PATTERNS).normal(size=(rank, joints)).T
    patterns /= np.abs(patterns).sum(axis=1, keepdims=True)
    return np.hstack([strength * patterns, (1 - strength) * np.eye(joints)])


def _mixing(limits: JointLimits, mixing: ArrayLike | None) -> Array:
    matrix = np.eye(len(limits)) if mixing is None else np.asarray(mixing, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != len(limits) or (np.abs(matrix).sum(1) > 1 + 1e-9).any():
        raise ConfigError(
            f"mixing must have one row for each of {len(limits)} joints, of absolute sum 1 at "
            f"most; got the shape {matrix.shape}. `synergies` makes one."
        )
    return matrix


def rhythmic(
    rng: np.random.Generator,
    limits: JointLimits,
    *,
    duration: float,
    rate: float = 100.0,
    mixing: ArrayLike | None = None,
    frequency: tuple[float, float] = (0.1, 0.4),
    harmonics: int = 3,
) -> Trajectory:
    """A periodic movement: one rhythm, in which each signal has its own Fourier series.

    Limits hold at every time, not just at the samples: amplitudes are bounded by the sum of their
    harmonics.

    Args:
        rng: generator that draws the movement.
        limits: positions, speeds and accelerations that are never exceeded, for `joints` joints.
        duration: length in s.
        rate: samples a second, Hz.
        mixing: `(joints, signals)`, from `synergies`; None: joints move independently.
        frequency: the range of the fundamental, Hz, drawn uniformly.
        harmonics: number of terms; the k-th is drawn with a spread that falls as 1/k².

    Returns:
        A trajectory of `round(duration * rate)` steps. The same draw at another rate is the same
        movement.
    """
    time = _times(duration, rate)
    if harmonics < 1 or not 0 < frequency[0] <= frequency[1]:
        raise ConfigError(
            f"rhythmic needs harmonics ≥ 1 and 0 < lowest ≤ highest frequency; got {harmonics} "
            f"and {frequency}."
        )
    mix = _mixing(limits, mixing)
    signals = mix.shape[1]
    order = np.arange(1, harmonics + 1)[:, None]
    omega = 2 * np.pi * rng.uniform(*frequency) * order
    amplitude = rng.normal(size=(harmonics, signals)) / order**2
    phase = rng.uniform(0, 2 * np.pi, size=(harmonics, signals))
    swing = rng.uniform(0.3, 1.0, size=signals)
    centre = rng.uniform(-1, 1, size=signals) * (1 - swing)
    amplitude *= swing / np.abs(amplitude).sum(0)

    # Where a joint would be too fast, it swings less: the pattern of the movement stays.
    half = (limits.high - limits.low) / 2
    size = np.abs(amplitude) @ np.abs(mix).T * half
    swing_of_joint = half * np.minimum.reduce(
        [
            np.ones(len(limits)),
            limits.speed / (size * omega).sum(0),
            limits.acceleration / (size * omega**2).sum(0),
        ]
    )
    angle = omega * time[:, None, None] + phase
    sine, cosine = amplitude * np.sin(angle), amplitude * np.cos(angle)
    middle = (limits.low + limits.high) / 2 + half * (mix @ centre)
    return Trajectory(
        time,
        middle + swing_of_joint * (sine.sum(1) @ mix.T),
        swing_of_joint * ((omega * cosine).sum(1) @ mix.T),
        -swing_of_joint * ((omega**2 * sine).sum(1) @ mix.T),
    )


def minimum_jerk(fraction: ArrayLike) -> tuple[Array, Array, Array]:
    """Position, velocity and acceleration of the minimum-jerk move from 0 to 1 in unit time.

    The quintic of Flash and Hogan, "The coordination of arm movements" (J. Neurosci. 5, 1985).

    Args:
        fraction: elapsed share of the move, any shape; clipped to [0, 1].

    Returns:
        Three arrays of that shape.
    """
    s = np.clip(np.asarray(fraction, dtype=np.float64), 0.0, 1.0)
    return (
        s**3 * (10 - 15 * s + 6 * s**2),
        30 * s**2 * (1 - s) ** 2,
        60 * s * (1 - s) * (1 - 2 * s),
    )


def point_to_point(
    rng: np.random.Generator,
    limits: JointLimits,
    *,
    duration: float,
    rate: float = 100.0,
    mixing: ArrayLike | None = None,
    dwell: tuple[float, float] = (0.0, 0.3),
    pace: tuple[float, float] = (0.4, 1.0),
) -> Trajectory:
    """Minimum-jerk moves between random postures, all joints in step, with short rests between.

    Args:
        rng: generator that draws the movement.
        limits: positions, speeds and accelerations that are never exceeded, for `joints` joints.
        duration: length in s; the last move may be cut short.
        rate: samples a second, Hz.
        mixing: `(joints, signals)`, from `synergies`; None: joints move independently.
        dwell: the range of the rests, s.
        pace: the range of each move's speed, as a share of what `limits` allow.

    Returns:
        A trajectory of `round(duration * rate)` steps that starts at rest. The same draw at another
        rate is the same movement.
    """
    time = _times(duration, rate)
    if not (0 <= dwell[0] <= dwell[1] and 0 < pace[0] <= pace[1] <= 1):
        raise ConfigError(
            f"point_to_point needs 0 ≤ dwell[0] ≤ dwell[1] and 0 < pace[0] ≤ pace[1] ≤ 1; got "
            f"dwell {dwell} and pace {pace}."
        )
    mix = _mixing(limits, mixing)
    middle, half = (limits.low + limits.high) / 2, (limits.high - limits.low) / 2

    def posture() -> Array:
        return np.asarray(middle + half * (mix @ rng.uniform(-1, 1, size=mix.shape[1])))

    start = posture()
    position = np.tile(start, (len(time), 1))
    velocity = np.zeros_like(position)
    acceleration = np.zeros_like(position)
    begin = rng.uniform(*dwell)
    while begin < duration:
        goal = posture()
        step = goal - start
        needed = np.maximum(
            _PEAK_SPEED * np.abs(step) / limits.speed,
            np.sqrt(_PEAK_ACCELERATION * np.abs(step) / limits.acceleration),
        ).max()
        length = needed / rng.uniform(*pace)
        now = time >= begin
        s, ds, dds = minimum_jerk((time[now, None] - begin) / length)
        position[now] = start + step * s
        velocity[now] = step * ds / length
        acceleration[now] = step * dds / length**2
        start = goal
        begin += length + rng.uniform(*dwell)
    return Trajectory(time, position, velocity, acceleration)
