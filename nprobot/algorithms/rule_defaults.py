"""A rule from what an algorithm is given, and the algorithm's settings under that rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.utils import LinearSchedule

from nprobot import catalogue
from nprobot.errors import RuleError
from nprobot.learning.rule import LearningRule
from nprobot.learning.rules import learning_rule


def make_rule(
    rule: str | LearningRule | None,
    settings: Mapping[str, Any] | None,
    seed: int | None,
    default: str = catalogue.DEFAULT_RULE,
) -> LearningRule:
    """The rule that a name and settings mean, or the rule itself.

    Args:
        rule: a name for `nprobot.learning_rule`, a rule, or None for the default.
        settings: of a rule given by name.
        seed: of its noise, unless the settings have one.
        default: name of the rule where none is given.

    Raises:
        RuleError: unknown rule, a setting out of range, or settings for a rule that is made.
    """
    if isinstance(rule, LearningRule):
        if settings:
            raise RuleError("rule_kwargs is for a rule given by name; set them on the rule itself")
        return rule
    return learning_rule(rule or default, **{"seed": seed, **(settings or {})})


def sb3_arguments(algorithm: str, rule: LearningRule, given: Mapping[str, Any]) -> dict[str, Any]:
    """What to make stable-baselines3's algorithm with.

    Args:
        algorithm: name in the catalogue.
        rule: where its estimate is noisy, some defaults are others than stable-baselines3's.
        given: arguments by name; None for the default.
    """
    arguments = {name: value for name, value in given.items() if value is not None}
    if rule.entry.guided:
        return arguments
    own = dict(catalogue.ALGORITHMS[algorithm].unguided)
    if own.pop("lr_schedule", None) == "linear":
        own["learning_rate"] = LinearSchedule(own["learning_rate"], 0.0, 1.0)
    if hidden := own.pop("hidden", None):
        network = {"net_arch": list(hidden)} | dict(arguments.get("policy_kwargs", {}))
        arguments["policy_kwargs"] = network
    return own | arguments
