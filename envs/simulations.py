"""The physics of one robot, and of many that share a model and a few threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import mujoco
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from ..errors import ConfigError

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

_BREAKDOWNS = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)
_LEAST = 4
"""Robots that are worth a thread."""
_EVERYTHING = int(mujoco.mjtState.mjSTATE_INTEGRATION)
"""All that a step of MuJoCo depends on, the solver's start included."""


def thread_count() -> int:
    """Threads that simulations use by default: `OMP_NUM_THREADS`, else the process's cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_each(
    generators: list[np.random.Generator | None],
    seed: int | Sequence[int | None] | None,
    robots: str,
) -> None:
    """Seed the generators of many robots, in place.

    Args:
        generators: one a robot.
        seed: one a robot, or that of the first, the others' being the numbers after it; a
            generator whose seed is None continues.
        robots: what they are, for the message.

    Raises:
        ConfigError: there are more or fewer seeds than robots.
    """
    count = len(generators)
    seeds = [seed + i for i in range(count)] if isinstance(seed, int) else seed
    if seeds is None:
        return
    if len(seeds) != count:
        raise ConfigError(f"{len(seeds)} seeds were given for {count} {robots}")
    for number, own in enumerate(seeds):
        if own is not None:
            generators[number] = seeding.np_random(own)[0]


def ended_information(
    observations: NDArray[Any], over: Flags, told: dict[str, Any]
) -> dict[str, Any]:
    """What gymnasium's `AutoresetMode.SAME_STEP` adds to a step in which episodes have ended.

    Args:
        observations: the last ones, of all robots, (E, ...).
        over: whose episode has ended, (E,).
        told: information of those episodes.
    """
    last = np.full(len(over), None, dtype=object)
    for number in np.flatnonzero(over):
        last[number] = observations[number].copy()
    return {"final_obs": last, "_final_obs": over, "final_info": told, "_final_info": over}


class OneSimulation:
    """The `Simulation` of one robot, whose arrays are those of its own data.

    Args:
        model: of the robot.
        data: its own, which others may look at and change.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data = model, data
        self.batch: tuple[int, ...] = ()
        self.qpos, self.qvel, self.ctrl = data.qpos, data.qvel, data.ctrl
        self.mocap_pos, self.sensordata = data.mocap_pos, data.sensordata
        self.actuator_force = data.actuator_force
        self.actuator_velocity = data.actuator_velocity
        self._warnings = [data.warning[int(kind)] for kind in _BREAKDOWNS]

    def step(self, ctrl: Array, steps: int) -> None:
        """Simulate some physics steps under commands `(nu,)`."""
        self.ctrl[:] = ctrl
        mujoco.mj_step(self._model, self._data, nstep=steps)

    def broken_down(self) -> Flags:
        """Whether MuJoCo has gone back to the start, because numbers became impossible."""
        return np.asarray(any(warning.number for warning in self._warnings))

    @contextmanager
    def starting(self, number: int) -> Iterator[tuple[mujoco.MjModel, mujoco.MjData]]:
        """The model and the reset data, to be placed."""
        mujoco.mj_resetData(self._model, self._data)
        yield self._model, self._data
        mujoco.mj_forward(self._model, self._data)


class ManySimulations:
    """The `Simulation` of many robots: a row of numbers each, and a working place a thread.

    What a step of MuJoCo depends on is put into the thread's data before it and taken out after it,
    so that each robot moves exactly as in data of its own, and takes a few kB.

    Args:
        models: one for all, or one each, of one structure.
        count: how many robots.
        threads: that simulate, this one among them; None: see `thread_count`.

    Attributes:
        threads: that do.
        places: their data.
    """

    def __init__(
        self, models: Sequence[mujoco.MjModel], count: int, threads: int | None = None
    ) -> None:
        model = models[0]
        self._models = list(models) * count if len(models) == 1 else list(models)
        self.batch: tuple[int, ...] = (count,)
        wanted = thread_count() if threads is None else threads
        shares = min(max(wanted, 1), max(count // _LEAST, 1))
        self.threads = shares
        self._shares = [
            range(part[0], part[-1] + 1) for part in np.array_split(np.arange(count), shares)
        ]
        self._pool = ThreadPoolExecutor(shares - 1, "simulation") if shares > 1 else None
        self._places = [_Place(model) for _ in self._shares]
        self.places = [place.data for place in self._places]
        self._state = np.zeros((count, mujoco.mj_stateSize(model, _EVERYTHING)))
        self._rows = list(self._state)
        parts = _parts(model)
        self.qpos = self._state[:, parts["QPOS"]]
        self.qvel = self._state[:, parts["QVEL"]]
        self.ctrl = self._state[:, parts["CTRL"]]
        self.mocap_pos = self._state[:, parts["MOCAP_POS"]].reshape(count, model.nmocap, 3)
        assert np.shares_memory(self.mocap_pos, self._state) or not model.nmocap
        self._read = np.zeros((count, model.nsensordata + 2 * model.nu))
        ends = np.cumsum([0, model.nsensordata, model.nu, model.nu])
        self.sensordata, self.actuator_force, self.actuator_velocity = (
            self._read[:, first:last] for first, last in pairwise(ends)
        )
        self._broken: Flags = np.zeros(count, bool)

    def step(self, ctrl: Array, steps: int) -> None:
        """Simulate some physics steps under commands `(robots, nu)`."""
        self.ctrl[...] = ctrl
        self._in_threads(lambda share: self._simulate(share, steps))

    def each(self, work: Callable[[mujoco.MjModel, mujoco.MjData, int], None]) -> None:
        """Do something with each robot in the threads; data are a thread's, and hold its state.

        Args:
            work: takes the model, data with the robot's state put in, and its number.
        """

        def those(share: int) -> None:
            data = self._places[share].data
            for number in self._shares[share]:
                mujoco.mj_setState(self._models[number], data, self._rows[number], _EVERYTHING)
                work(self._models[number], data, number)

        self._in_threads(those)

    def keep(self, number: int, data: mujoco.MjData) -> None:
        """Take a robot's state from other data of its model."""
        mujoco.mj_getState(self._models[number], data, self._rows[number], _EVERYTHING)

    def _in_threads(self, work: Callable[[int], None]) -> None:
        """Call a function for each share, the first in this thread."""
        if self._pool is None:
            work(0)
            return
        others = [self._pool.submit(work, share) for share in range(1, len(self._shares))]
        try:
            work(0)
        finally:
            for other in others:
                other.result()

    def broken_down(self) -> Flags:
        """Where MuJoCo has gone back to the start, `(robots,)`."""
        return self._broken

    @contextmanager
    def starting(self, number: int) -> Iterator[tuple[mujoco.MjModel, mujoco.MjData]]:
        """The model and the reset data of a robot, to be placed; kept on leaving."""
        model, place = self._models[number], self._places[0]
        mujoco.mj_resetData(model, place.data)
        yield model, place.data
        mujoco.mj_forward(model, place.data)
        mujoco.mj_getState(model, place.data, self._rows[number], _EVERYTHING)
        self._take(place, number)
        self._broken[number] = False

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _simulate(self, share: int, steps: int) -> None:
        place, rows, models = self._places[share], self._rows, self._models
        data, get, put, step = place.data, mujoco.mj_getState, mujoco.mj_setState, mujoco.mj_step
        for number in self._shares[share]:
            model, row = models[number], rows[number]
            put(model, data, row, _EVERYTHING)
            step(model, data, nstep=steps)
            get(model, data, row, _EVERYTHING)
            self._take(place, number)

    def _take(self, place: _Place, number: int) -> None:
        """Read what a step leaves behind."""
        self.sensordata[number] = place.sensordata
        self.actuator_force[number] = place.actuator_force
        self.actuator_velocity[number] = place.actuator_velocity
        if any(warning.number for warning in place.warnings):
            self._broken[number] = True
            for warning in place.warnings:
                warning.number = 0


class _Place:
    """Where a thread simulates one robot after the other."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.data = data = mujoco.MjData(model)
        self.sensordata = data.sensordata
        self.actuator_force, self.actuator_velocity = data.actuator_force, data.actuator_velocity
        self.warnings = [data.warning[int(kind)] for kind in _BREAKDOWNS]


def _parts(model: mujoco.MjModel) -> dict[str, slice]:
    """Where the parts of a state stand in it, by name."""
    places, start = {}, 0
    kinds = [kind for kind in mujoco.mjtState.__members__.values() if int(kind).bit_count() == 1]
    for kind in sorted(kinds, key=int):
        if int(kind) & _EVERYTHING:
            stop = start + mujoco.mj_stateSize(model, int(kind))
            places[kind.name.removeprefix("mjSTATE_")] = slice(start, stop)
            start = stop
    return places
