"""`Controller`: observation in, safe action out, at a fixed rate; what runs on the robot."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nprobot.errors import ConfigError, DeployError, ForeignFileError
from nprobot.policies import zoo
from nprobot.policies.files.onnx_file import ONNX_FILE, load_onnx
from nprobot.policies.files.policy import Array, BoxAction
from nprobot.policies.files.policy_file import load
from nprobot.runs.folder import find_policy
from nprobot.training.evaluation import DeployablePolicy

from .flight_recorder import FlightRecorder, RecordedStep
from .loop_timing import LatencyHistogram
from .safety import READABLE_KINDS, ControlFault, FaultKind, Safety, Supervisor

ZOO = "zoo:"
BACKENDS = ("numpy", "onnx")
RECORDED = 10_000
"""Steps that a flight recorder keeps where nobody asks for more."""


def load_policy(reference: str | Path, *, backend: str = "numpy") -> DeployablePolicy:
    """A policy on disk or in the zoo; nothing in the files is executed.

    Args:
        reference: ``zoo:NAME``, a run folder (its newest checkpoint counts), a policy folder, or a
            file in one; what ends in ``.onnx`` is read as such.
        backend: "numpy", or "onnx" for the `policy.onnx` in the folder.

    Raises:
        NotFoundError: there is no such policy.
        FileError: it cannot be used, or is a stable-baselines3 file.
        ConfigError: there is no such backend.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    text = str(reference)
    if text.endswith(".zip"):
        raise ForeignFileError(
            f"{text} may be a stable-baselines3 model. Reading one can run code that is in it; if "
            "you trust it, `nprobot train --from FILE --trust` continues from it; or "
            "nprobot.policies.load_trusted_sb3_zip reads it in Python and nprobot.policies.save "
            "writes a policy folder."
        )
    path = zoo.folder(text.removeprefix(ZOO)) if text.startswith(ZOO) else find_policy(Path(text))
    if path.suffix == ".onnx":
        return load_onnx(path)
    return load_onnx(path / ONNX_FILE) if backend == "onnx" else load(path)


class Controller:
    """Runs a policy on a robot: checks what comes in, limits what goes out, records both.

    `step` always returns an action and never raises: whatever goes wrong becomes a latched `fault`,
    and from then on the answer is the safe action, until you call `clear_fault`::

        controller = Controller.load("zoo:InvertedPendulum")
        while True:
            action = controller.step(robot.observe())

    Args:
        policy: from `load_policy`.
        rate: how often `step` will be called, Hz; by default the policy's control rate.
        safety: limits and safe action.
        record: how many of the last steps the flight recorder keeps.
        about: more for the record to say of the robot, JSON values; by default the environment
            that the policy was trained on.
        clock: seconds; for tests and replays.

    Attributes:
        policy: the policy.
        rate: Hz; None if neither the policy nor the caller says.
        safety: the limits.
        latency: times from observation to action.
        recorder: the last steps.
        steps: how many steps were taken since the controller was made.
        last: the last step; None before the first.

    Raises:
        DeployError: the rate is not above 0.
        ConfigError: a limit does not fit the policy.
    """

    def __init__(
        self,
        policy: DeployablePolicy,
        *,
        rate: float | None = None,
        safety: Safety | None = None,
        record: int = RECORDED,
        about: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if rate is None and policy.task is not None:
            rate = policy.task.control_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise DeployError(f"the control rate must be above 0 Hz, got {rate}")
        if record < 1:
            raise ConfigError(f"the flight recorder keeps 1 step or more, got {record}")
        self.policy = policy
        self.rate = rate
        self.safety = safety or Safety()
        period = math.inf if rate is None else 1 / rate
        # The first call of a runtime is slow; made here, it is not the robot's first action.
        trial = policy.predict(np.zeros(policy.observation_shape))
        self._supervisor = Supervisor(self.safety, policy, trial.dtype, period)
        kind = "f" if isinstance(policy.action, BoxAction) else "i"
        if trial.shape != self._supervisor.rest.shape or trial.dtype.kind != kind:
            raise DeployError(f"the policy gives {trial.dtype} {trial.shape} as an action")
        self.latency = LatencyHistogram(deadline=period)
        rest = self._supervisor.rest
        self._about = dict(about) if about is not None else self._about_task()
        self.recorder = self._new_recorder(record)
        self.steps = 0
        self.last: RecordedStep | None = None
        self._clock = clock
        self._fault: ControlFault | None = None
        self._lock = threading.Lock()  # `trip` may come from another thread
        self._previous = rest
        self._missed_in_a_row = 0
        self._begins = True
        self._cleared = False

    @classmethod
    def load(cls, reference: str | Path, *, backend: str = "numpy", **options: Any) -> Controller:
        """A controller for a policy on disk or in the zoo.

        Args:
            reference: as of `load_policy`.
            backend: "numpy" or "onnx".
            **options: as of the constructor.

        Raises:
            NprobotError: as `load_policy`, and as the constructor.
        """
        return cls(load_policy(reference, backend=backend), **options)

    @property
    def fault(self) -> ControlFault | None:
        """The fault that has latched; None if all is well."""
        return self._fault

    @property
    def previous_action(self) -> Array:
        """The action of the last step; a robot at rest before the first."""
        action: Array = self._previous.copy()
        return action

    def step(self, observation: object, *, age: float = 0.0) -> Array:
        """The next action.

        Args:
            observation: raw, of the policy's shape; anything else is a fault.
            age: time since it was measured, s.

        Returns:
            The action, inside all limits; the safe action if there is a fault.
        """
        started = self._clock()
        age = _seconds(age)
        with np.errstate(all="ignore"):  # what overflows is found by looking at the result
            values = self._supervisor.numbers(observation)
            action, commanded, finding = self._choose(values, age)
        seconds = self._clock() - started
        missed = self.latency.add(seconds)
        self._missed_in_a_row = self._missed_in_a_row + 1 if missed else 0
        most = self.safety.max_missed_deadlines
        if finding is None and most is not None and self._missed_in_a_row >= most:
            finding = (
                FaultKind.DEADLINE,
                f"{self._missed_in_a_row} actions in a row took longer than "
                f"{self.latency.deadline:.3g} s, the last {seconds:.3g} s",
            )
        if finding is not None:
            self._latch(*finding)
        if self._fault is not None:
            trusted = values if finding is None or finding[0] in READABLE_KINDS else None
            action = self._supervisor.safe(trusted, self._previous)
        self.last = RecordedStep(
            observation=values,
            age=age,
            previous=self._previous,
            commanded=commanded,
            action=action,
            fault=None if self._fault is None else self._fault.kind,
            seconds=seconds,
            begins=self._begins,
            cleared=self._cleared,
            repeats=self._supervisor.repeats,
            missed=self._missed_in_a_row,
        )
        self.recorder.add(self.last)
        self._previous = action
        self._begins = self._cleared = False
        self.steps += 1
        return action.copy()

    def reset(self, action: npt.ArrayLike | None = None) -> None:
        """Begin a new episode. A latched fault stays.

        Args:
            action: what the robot does now, where slew limits and `Hold` start from; by default it
                rests.

        Raises:
            ConfigError: `action` is not an action of this policy.
        """
        rest = self._supervisor.rest
        try:
            with np.errstate(all="ignore"):
                begin = rest if action is None else np.asarray(action, rest.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"an action is an array of numbers: {error}") from None
        if begin.shape != rest.shape or not np.isfinite(begin).all():
            raise ConfigError(f"an action is finite and has shape {rest.shape}, got {begin.shape}")
        self._previous = begin.copy()
        self._missed_in_a_row = 0
        self._supervisor.begin()
        self._begins = True

    def change_safety(self, safety: Safety) -> None:
        """Put other limits in the place of the present ones, between two steps.

        The flight recorder begins anew: a record has one set of limits.

        Raises:
            ConfigError: a limit does not fit the policy; nothing has changed then.
        """
        before, period = self._supervisor, self.latency.deadline
        supervisor = Supervisor(safety, self.policy, before.rest.dtype, period)
        self.safety, self._supervisor = safety, supervisor
        self.recorder = self._new_recorder(self.recorder.capacity, self.steps)

    def _new_recorder(self, capacity: int, first: int = 0) -> FlightRecorder:
        about = {
            "rate": self.rate,
            "safety": self.safety.to_dict(),
            **self._about,
        }
        shape, rest = self.policy.observation_shape, self._supervisor.rest
        return FlightRecorder(capacity, shape, rest, about, first)

    def _about_task(self) -> dict[str, Any]:
        task = self.policy.task
        if task is None:
            return {"environment": None}
        return {"environment": task.id, "environment_kwargs": dict(task.kwargs)}

    def trip(self, message: str, kind: FaultKind = FaultKind.EXTERNAL) -> None:
        """Latch a fault from outside, such as an emergency stop; may come from any thread."""
        self._latch(kind, message)

    def clear_fault(self) -> ControlFault | None:
        """Go back to work after a fault; returns the fault."""
        with self._lock:
            fault, self._fault = self._fault, None
        if fault is not None:
            self._cleared = True
            self._missed_in_a_row = 0
        return fault

    def resume(self, step: RecordedStep) -> None:
        """Continue after `step`; for replays of a flight without its start."""
        self._previous = step.action
        self._missed_in_a_row = step.missed
        self._supervisor.begin(step.observation, step.repeats)
        if step.fault is not None:
            self._fault = ControlFault(step.fault, self.steps, "as recorded")
        self._begins = False

    def _choose(
        self, values: Array | None, age: float
    ) -> tuple[Array, Array | None, tuple[FaultKind, str] | None]:
        """Limited action, the policy's own wish, and what is wrong with the observation."""
        if values is None:
            self._supervisor.begin()  # what comes next repeats nothing
            shape = self.policy.observation_shape
            finding = FaultKind.UNUSABLE, f"it is not an array of numbers of shape {shape}"
            return self._previous, None, finding
        if (wrong := self._supervisor.inspect(values, age)) is not None:
            return self._previous, None, wrong
        if self._fault is not None:
            return self._previous, None, None
        try:
            commanded = np.asarray(self.policy.predict(values))
        except Exception as error:  # a robot needs an action, whatever has failed
            finding = FaultKind.POLICY, f"{type(error).__name__}: {error}"
            return self._previous, None, finding
        rest = self._supervisor.rest
        if commanded.shape != rest.shape or commanded.dtype != rest.dtype:
            what = f"the policy gives {commanded.dtype} {commanded.shape} as an action"
            return self._previous, None, (FaultKind.POLICY, what)
        if not np.isfinite(commanded).all():
            return self._previous, None, (FaultKind.ACTION, f"the policy gives {commanded}")
        return self._supervisor.limit(commanded, self._previous), commanded, None

    def _latch(self, kind: FaultKind, message: str) -> None:
        """Keep the first fault; later ones are its consequences."""
        with self._lock:
            if self._fault is None:
                self._fault = ControlFault(kind, self.steps, message)


def _seconds(age: object) -> float:
    """An age as a number; NaN, which is stale, if it is none."""
    try:
        return float(age)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
