"""What a search is asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from nprobot.errors import ConfigError
from nprobot.training.config import FEEDBACK_RULES, LearningOptions, RunConfig

from .space import parameters

BACKPROPAGATION = ("bp", "dbp")
FRESH = 1000
"""Seed of the first run of the final comparison: none that a search trains with."""


@dataclass(frozen=True)
class TuneConfig:
    """Settings of a search.

    Raises:
        ConfigError: a value is not allowed.
        UnknownNameError: there is no such rule or algorithm.
    """

    env: str = "InvertedPendulum-v5"
    """Environment id; `nprobot envs` lists them."""
    algo: str = "ppo"
    """Algorithm: ppo, nrl, sac, td3."""
    rule: tuple[str, ...] = ("danp",)
    """Learning rules. Several, such as `--rule danp bp`, get a search each, of equal budget."""
    feedback: bool = False
    """With learned feedback, for those of the rules that can have it: np, inp, dnp, dinp."""
    samples: int | None = None
    """Noisy passes that each gradient averages (K): a matter of the budget, so not searched."""
    trials: int = 20
    """Settings to try for each rule; the first are the general defaults."""
    steps: int = 50_000
    """Environment steps of a run."""
    seeds: int = 2
    """Runs of each trial, whose returns are averaged."""
    fresh_seeds: int = 3
    """Runs of the best settings, and of the general defaults, on seeds that no trial had."""
    evaluations: int = 2
    """Evaluations within a run, after which a trial that is behind the others is given up."""
    seed: int = 0
    """Where the choice of settings comes from."""

    def __post_init__(self) -> None:
        for name in ("trials", "steps", "seeds", "fresh_seeds"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        self._require("seeds", self.seeds <= FRESH, f"at most {FRESH}")
        self._require("evaluations", 0 <= self.evaluations < self.steps, "from 0, and below steps")
        self._require("seed", self.seed >= 0, "0 or more")
        self._require("rule", bool(self.rule), "one rule or more")
        self._require("rule", len(set(self.rule)) == len(self.rule), "different rules")
        for rule in self.rule:
            self.run(rule)  # checks the names
            parameters(self.algo, rule)
        if self.feedback and not any(map(self.with_feedback, self.rule)):
            raise ConfigError(
                f"feedback is for {', '.join(FEEDBACK_RULES)}, got {', '.join(self.rule)}"
            )

    def with_feedback(self, rule: str) -> bool:
        """Whether a rule is searched with learned feedback."""
        return self.feedback and rule in FEEDBACK_RULES

    def run(self, rule: str, seed: int = 0) -> RunConfig:
        """The run of a trial, before its settings: with the general defaults."""
        every = self.steps // (self.evaluations + 1) if self.evaluations else None
        return RunConfig(
            env=self.env,
            algo=self.algo,
            rule=rule,
            samples=None if rule in BACKPROPAGATION else self.samples,
            steps=self.steps,
            seed=seed,
            checkpoint_every=self.steps,
            evaluate_every=every,
            learning=LearningOptions(feedback=self.with_feedback(rule) or None),
        )

    def of(self, rule: str) -> TuneConfig:
        """The same search of one rule."""
        return dataclasses.replace(self, rule=(rule,), feedback=self.with_feedback(rule))

    def identity(self) -> dict[str, Any]:
        """What a search has to keep when it goes on; all but the number of trials."""
        values = dataclasses.asdict(self)
        del values["trials"]
        if not self.feedback:  # a search from before there was that option goes on
            del values["feedback"]
        return {**values, "rule": list(self.rule)}

    def _require(self, name: str, met: bool, allowed: str) -> None:
        if not met:
            raise ConfigError(f"{name} must be {allowed}, got {getattr(self, name)!r}")
