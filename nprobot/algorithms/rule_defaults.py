"""What a rule that an algorithm is given by name is made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nprobot.errors import RuleError
from nprobot.learning.rule import LearningRule
from nprobot.learning.rules import learning_rule

RULE_DEFAULTS: dict[str, Any] = {
    "sigma": 1e-2,
    "samples": 8,
    "noise": "rademacher",
    "decorrelation_lr": 1e-4,
}
"""Settings of a rule that is given by name. R is ten times as slow as in `learning_rule`: PPO by
DANP ended nearer to backpropagation on most tasks (docs/benchmark.md), and critics fitted better
(docs/off_policy.md)."""

FEEDBACK_DEFAULTS: dict[str, Any] = {"sigma": 1e-3, "samples": 1}
"""Where they differ for a rule with learned feedback: it leaves so little variance that one noisy
pass does, and so little to average that curvature shows, which a smaller σ takes away."""

DEFAULT_RULE: tuple[str, dict[str, Any]] = ("np", {"feedback": True})
"""The rule of an algorithm that is given none: what came closest to backpropagation."""


def make_rule(
    rule: str | LearningRule | None, settings: Mapping[str, Any] | None, seed: int | None
) -> LearningRule:
    """The rule that a name and settings mean, with this module's defaults; or the rule itself.

    Args:
        rule: a name for `nprobot.learning_rule`, a rule, or None for `DEFAULT_RULE`.
        settings: of a rule given by name.
        seed: of its noise, unless the settings have one.

    Raises:
        RuleError: unknown rule, a setting out of range, or settings for a rule that is made.
    """
    if isinstance(rule, LearningRule):
        if settings:
            raise RuleError("rule_kwargs is for a rule given by name; set them on the rule itself")
        return rule
    given = dict(settings or {})
    if rule is None:
        rule, own = DEFAULT_RULE
        given = own | given
    defaults = RULE_DEFAULTS | (FEEDBACK_DEFAULTS if given.get("feedback") else {})
    return learning_rule(rule, **defaults | {"seed": seed} | given)
