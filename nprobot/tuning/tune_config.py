"""What a search is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from nprobot import catalogue
from nprobot.errors import ConfigError
from nprobot.options import Count, Options, Seed
from nprobot.training.run_config import RunConfig

from .space import parameters

FRESH = 1000
"""Seed of the first run of the final comparison: none that a search trains with."""


@dataclass(frozen=True)
class TuneConfig(Options):
    """Settings of a search.

    Raises:
        ConfigError: a value is not allowed.
        UnknownNameError: there is no such rule or algorithm.
    """

    env: str = "InvertedPendulum-v5"
    """Environment id; `nprobot envs` lists them."""
    algo: str = "ppo"
    """Algorithm: ppo, nrl, sac, td3."""
    rule: tuple[str, ...] = ()
    """Learning rules. Several, such as `--rule np+feedback bp`, get a search each, of equal budget.
    Left out: np+feedback, for nrl danp."""
    samples: Count | None = None
    """Noisy passes that each gradient averages (K): a matter of the budget, so not searched."""
    trials: Count = 20
    """Settings to try for each rule; the first are the general defaults."""
    steps: Count = 50_000
    """Environment steps of a run."""
    seeds: Annotated[int, Meta(ge=1, le=FRESH)] = 2
    """Runs of each trial, whose returns are averaged."""
    fresh_seeds: Count = 3
    """Runs of the best settings, and of the general defaults, on seeds that no trial had."""
    evaluations: Annotated[int, Meta(ge=0)] = 2
    """Evaluations within a run, after which a trial that is behind the others is given up."""
    seed: Seed = 0
    """Seed of the choice of settings."""

    def check(self) -> None:
        """Fill in the rule, and refuse what does not exist or contradicts itself."""
        if not self.rule:
            object.__setattr__(self, "rule", (RunConfig(algo=self.algo).rule,))
        if len(set(self.rule)) != len(self.rule):
            raise ConfigError(f"rule must be different rules, got {', '.join(self.rule)}")
        if self.evaluations >= self.steps:
            raise ConfigError(f"evaluations must be below steps, got {self.evaluations}")
        for rule in self.rule:
            self.run(rule)  # checks the names
            parameters(self.algo, rule)

    def run(self, rule: str, seed: int = 0) -> RunConfig:
        """The run of a trial, before its settings: with the general defaults."""
        every = self.steps // (self.evaluations + 1) if self.evaluations else None
        run = RunConfig(
            env=self.env,
            algo=self.algo,
            rule=rule,
            steps=self.steps,
            seed=seed,
            checkpoint_every=self.steps,
            evaluate_every=every,
        )
        perturbs = catalogue.rule_named(rule).perturbs
        return run.replace(samples=self.samples) if perturbs else run

    def of(self, rule: str) -> TuneConfig:
        """The same search of one rule."""
        return self.replace(rule=(rule,))

    def identity(self) -> TuneConfig:
        """What a search has to keep when it is continued: all but the number of trials."""
        return self.replace(trials=1)
