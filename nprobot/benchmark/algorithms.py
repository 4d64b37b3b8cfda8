"""The algorithms that a benchmark knows: which settings each takes, and what runs it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nprobot.errors import ConfigError, MissingPackageError
from nprobot.training.config import RULES

NORMALISE = ("on", "off", "observations", "rewards")
SCHEDULES = ("constant", "linear")

COMMON: dict[str, type] = {
    "learning_rate": float,
    "lr_schedule": str,
    "normalise": str,
    "gamma": float,
}
RULE: dict[str, type] = {
    "sigma": float,
    "noise": str,
    "decorrelation_lr": float,
    "decorrelation_interval": int,
    "whitening": float,
    "feedback": bool,
    "feedback_lr": float,
}
ON_POLICY: dict[str, type] = {
    "n_steps": int,
    "batch_size": int,
    "n_epochs": int,
    "gae_lambda": float,
    "clip_range": float,
    "ent_coef": float,
    "vf_coef": float,
    "max_grad_norm": float,
    "target_kl": float,
    "activation": str,
}
OFF_POLICY: dict[str, type] = {
    "batch_size": int,
    "buffer_size": int,
    "learning_starts": int,
    "train_freq": int,
    "gradient_steps": int,
    "tau": float,
    "action_noise": float,
    "activation": str,
}
SAC: dict[str, type] = OFF_POLICY | {"ent_coef": float, "ent_coef_start": float}
ARS: dict[str, type] = {
    "learning_rate": float,
    "normalise": str,
    "delta_std": float,
    "n_delta": int,
    "n_top": int,
    "alive_bonus_offset": float,
}
FIT: dict[str, type] = {
    "learning_rate": float,
    "batch_size": int,
    "sigma": float,
    "noise": str,
    "decorrelation_lr": float,
    "feedback": bool,
}
NRL: dict[str, type] = {
    "noise_from": str,
    "node_noise": float,
    "references": int,
    "baseline": str,
    "n_steps": int,
    "gae_lambda": float,
    "critic_epochs": int,
    "max_grad_norm": float,
}


@dataclass(frozen=True)
class Algorithm:
    """An algorithm of the benchmark.

    Attributes:
        about: what it is.
        module: of this package, which has a function ``run(spec, recorder) -> Ledger``.
        settings: names and types of the hyperparameters that a suite may set.
        rules: whether it takes a learning rule.
        package: to be installed for it, beside nprobot's own dependencies.
        microseconds: rough CPU time of one environment step at K = 1, for estimates.
        noisy_microseconds: the same for each further noisy pass.
    """

    about: str
    module: str
    settings: dict[str, type]
    rules: bool = False
    package: str | None = None
    microseconds: float = 0.0
    noisy_microseconds: float = 0.0


ALGORITHMS: dict[str, Algorithm] = {
    "ppo": Algorithm("nprobot.PPO", "sb3", COMMON | ON_POLICY | RULE, True, None, 400.0, 25.0),
    "sac": Algorithm("nprobot.SAC", "sb3", COMMON | SAC | RULE, True, None, 6000.0, 300.0),
    "td3": Algorithm("nprobot.TD3", "sb3", COMMON | OFF_POLICY | RULE, True, None, 4000.0, 250.0),
    "nrl": Algorithm("nprobot.NRL", "sb3", COMMON | NRL | RULE, True, None, 400.0),
    "sb3-ppo": Algorithm(
        "stable-baselines3's own PPO", "sb3", COMMON | ON_POLICY, False, None, 600.0
    ),
    "sb3-sac": Algorithm("stable-baselines3's own SAC", "sb3", COMMON | SAC, False, None, 6000.0),
    "sb3-td3": Algorithm(
        "stable-baselines3's own TD3", "sb3", COMMON | OFF_POLICY, False, None, 4000.0
    ),
    "ars": Algorithm(
        "augmented random search of sb3-contrib, linear policy",
        *("peers", ARS, False, "sb3_contrib", 200.0),
    ),
    "cma-es": Algorithm(
        "CMA-ES of pycma, linear policy",
        *("peers", {"sigma0": float, "population": int, "normalise": str}, False, "cma", 30.0),
    ),
    "random": Algorithm("uniformly random actions", "peers", {}),
    "fit": Algorithm("nprobot.fit", "fits", FIT, True, None, 8e6, 1e6),
}
"""By the name that suites use."""

CHOICES: dict[str, tuple[str, ...]] = {
    "normalise": NORMALISE,
    "lr_schedule": SCHEDULES,
    "noise": ("gaussian", "rademacher", "orthogonal"),
    "noise_from": ("network", "actuators", "injected"),
    "baseline": ("critic", "running-mean"),
    "rule": RULES,
}
"""What settings that are words may be."""


def runner(name: str) -> Callable[..., Any]:
    """The function that does a run by an algorithm."""
    module = importlib.import_module(f".{ALGORITHMS[name].module}", __package__)
    function: Callable[..., Any] = module.run
    return function


def check_installed(name: str) -> None:
    """Refuse an algorithm whose package is missing, before any work is done.

    Raises:
        MissingPackageError: it is.
    """
    package = ALGORITHMS[name].package
    if package is not None and importlib.util.find_spec(package) is None:
        raise MissingPackageError(
            f"the algorithm {name!r} needs `pip install 'nprobot[bench]'` ({package} is missing)"
        )


def check_setting(algo: str, name: str, value: object, where: str) -> None:
    """Refuse a value of the wrong type or an unknown word.

    Raises:
        ConfigError: says which key and what is allowed.
    """
    wanted = ALGORITHMS[algo].settings[name]
    kind = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}[wanted]
    fits = isinstance(value, (int, float) if wanted is float else wanted)
    if isinstance(value, bool) and wanted is not bool:
        fits = False
    if not fits:
        raise ConfigError(f"{where} must be {kind}, got {value!r}")
    if name in CHOICES and value not in CHOICES[name]:
        raise ConfigError(f"{where} must be one of {', '.join(CHOICES[name])}, got {value!r}")
