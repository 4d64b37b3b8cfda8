"""One run of a benchmark: everything that decides its result, and the key it is known by."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IDEAL = "ideal"
"""Hardware that does what it is told."""

FIT = "fit:"
"""Before the name of a regression task, where an environment id would stand."""


@dataclass(frozen=True)
class RunSpec:
    """One run.

    Attributes:
        env: id of the environment, or ``fit:TASK`` for a regression task.
        hardware: preset of the actuators (`nprobot.envs.actuators.presets.PRESETS`).
        steps: budget: environment steps, or epochs of a regression task.
        learner: name that reports know the learner by.
        algo: algorithm, a key of `nprobot.benchmark.algorithms.ALGORITHMS`.
        rule: learning rule; None where the algorithm has none.
        samples: K, noisy passes of a rule; None where it takes none.
        settings: hyperparameters by name.
        seed: where all randomness of the run comes from.
        env_kwargs: arguments of the environment or task.
        envs: environments side by side.
        hidden: units of the hidden layers.
        episodes: that measure the finished policy.
        points: of the curve, besides the one at 0.
        point_episodes: that make one point of the curve.
    """

    env: str
    hardware: str
    steps: int
    learner: str
    algo: str
    rule: str | None
    samples: int | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    envs: int = 8
    hidden: tuple[int, ...] = (64, 64)
    episodes: int = 20
    points: int = 20
    point_episodes: int = 5

    @property
    def cell(self) -> tuple[str, str, int, str]:
        """What differs between two learners or tasks, and not between two seeds."""
        return self.env, self.hardware, self.steps, self.learner

    @property
    def key(self) -> str:
        """A short name for this run and no other; the same in every process and version."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def cell_key(self) -> str:
        """The same for the run whatever its seed."""
        return dataclasses.replace(self, seed=0).key

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        values = dataclasses.asdict(self)
        own = {"settings": dict(self.settings), "env_kwargs": dict(self.env_kwargs)}
        return values | own | {"hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The run in a JSON object; keys that are not its own are left aside."""
        own = {f.name: values[f.name] for f in dataclasses.fields(cls)}
        return cls(**own | {"hidden": tuple(own["hidden"])})

    def command(self, suite: str) -> str:
        """The command line that repeats this run alone."""
        words = ["nprobot", "bench", suite, "--env", self.env, "--learner", self.learner]
        words += ["--hardware", self.hardware, "--seeds", str(self.seed)]
        return shlex.join([*words, "--steps", str(self.steps)])

    def __str__(self) -> str:
        hardware = "" if self.hardware == IDEAL else f" ({self.hardware})"
        return f"{self.env}{hardware} {self.learner}, seed {self.seed}"
