"""The settings of a fit: which rule learns, how, and for how long.

A setting that is None takes a default that depends on the rule; the value in use is what
`config.json` records.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Self

from nprobot.catalogue import learner_title, rule_named
from nprobot.errors import ConfigError, UnknownNameError
from nprobot.training.config import RULES

WITH_FEEDBACK = ("np", "inp", "dnp", "dinp")
"""Rules that learned feedback is for."""


CHANGEABLE = ("epochs", "patience", "checkpoint_every")
"""Settings that a resumed fit may change."""


@dataclass(frozen=True)
class FitConfig:
    """Settings of `nprobot.fit`.

    Raises:
        ConfigError: a value is not allowed.
        UnknownNameError: there is no such rule or choice.
    """

    rule: str = "danp"
    """Learning rule: np, inp, anp, with decorrelation dnp, dinp, danp; bp and dbp to compare."""
    samples: int = 8
    """Noisy passes that each gradient averages (K)."""
    epochs: int = 20
    """Passes over the training rows."""
    batch_size: int = 256
    """Rows of a step."""
    learning_rate: float | None = None
    """Step size at the start. Left out: 0.01 for dnp, dinp, danp and backpropagation, 0.003 for np,
    inp, anp; with --optimizer sgd 0.01."""
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the step sizes of weights and of R go from there: down to 0 at the last step, or not."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """What makes a step of a gradient."""
    sigma: float = 1e-3
    """Standard deviation of the node noise."""
    noise: Literal["rademacher", "gaussian", "orthogonal"] = "rademacher"
    """Distribution of the node noise; random signs are cheaper and of slightly lower variance."""
    decorrelation_lr: float = 1e-3
    """Step size of the decorrelation matrices R; decorrelated rules only."""
    feedback: bool = False
    """Learn a guess of the node errors on the side, so that noise explains only what it leaves: for
    np, inp, dnp and dinp. Little variance is left; --samples 1 will do."""
    whitening: float = 0.0
    """Share of R's step that drives variances to 1; 0 in the paper."""
    keep_function: bool = False
    """Let the weights follow R, so that its steps leave the outputs alone; not so in the paper."""
    decorrelation_interval: int = 1
    """Update R in every n-th step."""
    weight_decay: float = 0.0
    """Share of the weights, times the step size, that each step takes away."""
    max_row_norm: float | None = None
    """Longest weight vector of a node; a longer one is scaled back after the step."""
    patience: int | None = None
    """Stop after so many epochs without a better validation error. Left out: never."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints. Left out: a tenth of --epochs."""
    seed: int = 0
    """Where all randomness of the fit comes from."""

    @property
    def learner(self) -> str:
        """What learns, in a few words, such as ``DNP + feedback, K = 1``."""
        return learner_title(rule_named(self.rule, feedback=self.feedback).name, self.samples)

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UnknownNameError("learning rule", self.rule, RULES, f"Known: {', '.join(RULES)}.")
        for name in (field.name for field in dataclasses.fields(self)):
            value = getattr(self, name)
            if name not in ("rule", "feedback", "keep_function", *_CHOICES) and not (
                value is None and name in _OPTIONAL
            ):
                self._require(name, isinstance(value, Real), "a number")
        for name in ("samples", "epochs", "batch_size", "decorrelation_interval"):
            self._require(name, _whole(getattr(self, name)), "a whole number from 1")
        for name in ("patience", "checkpoint_every"):
            value = getattr(self, name)
            self._require(name, value is None or _whole(value), "a whole number from 1")
        for name in ("learning_rate", "max_row_norm"):
            value = getattr(self, name)
            self._require(name, value is None or 0 < value < math.inf, "above 0")
        self._require("sigma", 0 < self.sigma < math.inf, "above 0")
        self._require("decorrelation_lr", 0 <= self.decorrelation_lr < 1, "from 0 to below 1")
        self._require("whitening", 0 <= self.whitening <= 1, "from 0 to 1")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        self._require("seed", _whole(self.seed + 1), "a whole number from 0")
        for name in ("feedback", "keep_function"):
            self._require(name, isinstance(getattr(self, name), bool), "True or False")
        if self.feedback and self.rule not in WITH_FEEDBACK:
            raise ConfigError(
                f"feedback is for {', '.join(WITH_FEEDBACK)}, not for {self.rule!r}: it is a guess "
                "of what the noise should do, and only these rules multiply by the noise itself"
            )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UnknownNameError(name, getattr(self, name), known)

    @property
    def decorrelated(self) -> bool:
        """Whether the rule learns decorrelation matrices: the network needs decorrelated layers."""
        return self.rule not in ("np", "inp", "anp", "bp")

    def complete(self) -> Self:
        """The same settings with every default that depends on others filled in."""
        learning_rate = self.learning_rate
        if learning_rate is None:
            slow = self.rule in ("np", "inp", "anp") and self.optimizer == "adam"
            learning_rate = 3e-3 if slow else 1e-2
        return dataclasses.replace(
            self,
            learning_rate=learning_rate,
            checkpoint_every=self.checkpoint_every or max(self.epochs // 10, 1),
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings in a JSON object, or in keyword arguments.

        Raises:
            UnknownNameError: a key is not the name of a setting; with near matches.
            ConfigError: a value is not allowed.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise UnknownNameError("setting", key, known)
        return cls(**values)

    def _require(self, name: str, met: bool, allowed: str) -> None:
        if not met:
            raise ConfigError(f"{name} must be {allowed}, got {getattr(self, name)!r}")


_OPTIONAL = ("learning_rate", "max_row_norm", "patience", "checkpoint_every")
_CHOICES: dict[str, tuple[str, ...]] = {
    "lr_schedule": ("cosine", "linear", "constant"),
    "optimizer": ("adam", "sgd"),
    "noise": ("rademacher", "gaussian", "orthogonal"),
}


def _whole(value: float) -> bool:
    return math.isfinite(value) and value == int(value) and value >= 1
