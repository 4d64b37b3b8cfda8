"""The configuration of a fit: which rule learns, how, and for how long.

An option that is None takes the default of the rule; the value in use is what `config.json`
records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from msgspec import Meta

from nprobot import catalogue
from nprobot.catalogue import LRSchedule, Noise
from nprobot.errors import ConfigError, UnknownNameError
from nprobot.options import Count, NotNegative, Options, Positive, Seed, Share


@dataclass(frozen=True)
class FitConfig(Options):
    """How a fit learns, and for how long: options of `nprobot.fit`.

    Raises:
        ConfigError: a value is not allowed.
        UnknownNameError: there is no such rule or choice.
    """

    rule: str = catalogue.DEFAULT_RULE
    """Learning rule: np, inp, anp; np+feedback, inp+feedback with learned feedback; a d in front
    for decorrelation; bp and dbp to compare."""
    samples: Count | None = None
    """Noisy passes that each gradient averages (K). Left out: 1 with feedback, else 8."""
    epochs: Count = 20
    """Passes over the training rows."""
    batch_size: Count = 256
    """Rows of a step."""
    learning_rate: Positive | None = None
    """Step size at the start. Left out: 0.01 for decorrelated rules and backpropagation, 0.003 for
    the others; with --optimizer sgd 0.01."""
    lr_schedule: LRSchedule = "cosine"
    """How the step sizes of weights and of R change: falling to 0 at the last step, or constant."""
    loss: Literal["mse", "likelihood"] = "mse"
    """What is minimised where targets are numbers: the mean squared error of standardised targets,
    or minus the log-likelihood of a Gaussian whose spread, one number a target, is learned, too."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimiser that turns gradients into steps."""
    sigma: Positive | None = None
    """Standard deviation of the node noise. Left out: 0.001 with feedback, else 0.01."""
    noise: Noise | None = None
    """Distribution of the node noise. Left out: rademacher, random signs."""
    decorrelation_lr: Annotated[float, Meta(ge=0, lt=1)] | None = None
    """Step size of the decorrelation matrices R; decorrelated rules only. Left out: 0.0001."""
    whitening: Share = 0.0
    """Share of R's step that drives variances to 1; 0 in the paper."""
    keep_function: bool = False
    """Let the weights follow R, so that its steps leave the outputs alone; not so in the paper."""
    decorrelation_interval: Count = 1
    """Update R in every n-th step."""
    weight_decay: NotNegative = 0.0
    """Share of the weights, times the step size, that each step takes away."""
    chip: str | None = None
    """Chip that the network learns on, and is measured on: as for train, a preset (reram-om,
    analog, …), models, or the address of a device. The last model is kept then, not the best."""
    max_row_norm: Positive | None = None
    """Longest weight vector of a node; a longer one is scaled back after the step."""
    patience: Count | None = None
    """Epochs without a better validation error after which the fit stops. Left out: never."""
    checkpoint_every: Count | None = None
    """Epochs between checkpoints. Left out: a tenth of --epochs."""
    seed: Seed = 0
    """Seed of everything random in the fit."""

    def check(self) -> None:
        """Refuse a rule that does not exist."""
        known = catalogue.rules()
        if self.chip is not None:
            self._check_chip(self.chip)
        if ":" not in self.rule and self.rule not in known:
            raise UnknownNameError("learning rule", self.rule, known, f"Known: {', '.join(known)}.")

    def _check_chip(self, chip: str) -> None:
        from nprobot.policies.chip.crossbar import is_device  # torch takes a second to load

        is_device(chip)  # resolves what is no address
        if ":" not in self.rule and self.rule in catalogue.rules():
            catalogue.rule_named(self.rule).check_on_chip()

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object as this version would have written it."""
        upgraded = super().upgraded(values)
        feedback = upgraded.pop("feedback", False)
        if not isinstance(feedback, bool):
            raise ConfigError(f"feedback must be true or false, got {feedback!r}")
        if feedback:
            rule = upgraded.get("rule", cls.rule)
            upgraded["rule"] = catalogue.rule_named(rule, feedback=True).name
        return upgraded

    @property
    def learner(self) -> str:
        """What learns, in a few words, such as ``DNP + feedback, K = 1``."""
        return catalogue.learner_title(self.rule, self.samples)

    @property
    def decorrelated(self) -> bool:
        """Whether the rule learns decorrelation matrices: the network needs decorrelated layers."""
        return catalogue.rule_named(self.rule).decorrelated

    def resolved(self) -> Self:
        """The same configuration with every default that is in use filled in."""
        rule = catalogue.rule_named(self.rule)
        noisy = rule.perturbs and not rule.decorrelated and self.optimizer == "adam"
        defaults = {
            **rule.settings,
            "learning_rate": 3e-3 if noisy else 1e-2,
            "checkpoint_every": max(self.epochs // 10, 1),
        }
        missing = {k: v for k, v in defaults.items() if getattr(self, k, v) is None}
        return self.replace(**missing)


RULE_OPTIONS = (
    *("sigma", "samples", "noise", "decorrelation_lr"),
    *("whitening", "keep_function", "decorrelation_interval"),
)
"""Options that belong to the rule: `nprobot.learning_rule` takes them by the same names."""
CHANGEABLE = ("epochs", "patience", "checkpoint_every")
"""Options that a resumed fit may change."""
