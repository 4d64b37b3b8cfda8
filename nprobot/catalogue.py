"""What there is, by name, with its traits: rules, noise, activations, algorithms, actuators.

Configuration, command line, benchmark, cards and figures ask here. Nothing heavy is imported, so
that help, completion and a refused name take no time.

A learning rule stands in one file: the class, with `@catalogue.rule(...)` before it. Rules that
come with the package are found in the source of `nprobot.learning`; the arguments of the decorator
are literals, so they can be read without importing the file, and torch with it. A rule of another
package is known as soon as its module is imported, or by the name ``"its_module:name"``.
"""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from .errors import ConfigError, NoiseInaccessibleError, RuleError, near_matches
from .user_code import import_named

Noise = Literal["rademacher", "gaussian", "orthogonal"]
NOISES: Mapping[Noise, str] = {
    "rademacher": "random signs: cheap to draw, and of slightly lower variance",
    "gaussian": "normal noise, as in the paper",
    "orthogonal": "the K directions of a sample are orthogonal; of use where K comes near N",
}
"""Distributions of the node noise, and what each is for."""

Activation = Literal["tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "identity"]
"""Activation functions that networks, policy files and the command line know."""

LRSchedule = Literal["constant", "linear", "cosine"]
Normalise = Literal["on", "off", "observations", "rewards"]
NoiseSource = Literal["network", "actuators", "injected"]

DEFAULT_RULE = "np+feedback"
"""What learns where nothing else is asked for, also on a chip whose noise nobody can read."""

FEEDBACK = "+feedback"
SETTINGS: Mapping[str, Any] = {
    "sigma": 1e-2,
    "samples": 8,
    "noise": "rademacher",
    "decorrelation_lr": 1e-4,
}
"""Settings of a rule where the rule itself says nothing else.

R is slow, or the policy of PPO moves between minibatches with no gradient behind it.
"""


@dataclass(frozen=True)
class RuleTraits:
    """What is known of a rule without importing it.

    Attributes:
        name: the name of the rule without decorrelation, such as ``"np"`` or ``"np+feedback"``.
        title: for people, such as ``"NP + feedback"``.
        about: what it does, in a line.
        citation: where it comes from.
        perturbs: whether it learns from noise; False for backpropagation.
        hidden_noise: whether it can learn from noise that it cannot read.
        guided: whether its estimate lies along the gradient, as that of rules with feedback does.
        peer: whether it is there to be compared with, and not for users to choose.
        settings: where its settings differ from `SETTINGS`.
        colours: in figures, without and with decorrelation.
        marker: in figures, as matplotlib names it.
        module: where its class is.
    """

    name: str
    title: str
    about: str
    citation: str
    perturbs: bool = True
    hidden_noise: bool = False
    guided: bool = False
    peer: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    colours: tuple[str, str] = ("#8c564b", "#bc80bd")
    marker: str = "o"
    module: str = ""


@dataclass(frozen=True)
class Rule:
    """A rule as users name it: one that is registered, with or without decorrelation.

    Attributes:
        name: such as ``"dnp+feedback"``.
        traits: of the rule without decorrelation.
        decorrelated: whether its layers decorrelate their inputs.
    """

    name: str
    traits: RuleTraits
    decorrelated: bool

    @property
    def title(self) -> str:
        """The name for people, such as ``"DNP + feedback"``."""
        return f"{'D' * self.decorrelated}{self.traits.title}"

    @property
    def plain_name(self) -> str:
        """The name without decorrelation and feedback, such as ``"np"``."""
        return self.traits.name.removesuffix(FEEDBACK)

    @property
    def feedback(self) -> bool:
        """Whether it learns with learned feedback."""
        return self.traits.name.endswith(FEEDBACK)

    @property
    def perturbs(self) -> bool:
        """Whether it learns from noise."""
        return self.traits.perturbs

    @property
    def hidden_noise(self) -> bool:
        """Whether it can learn from noise that it cannot read."""
        return self.traits.hidden_noise

    def check_on_chip(self) -> None:
        """Refuse a rule that has to know noise which nobody can read.

        Raises:
            NoiseInaccessibleError: it has to.
        """
        if self.perturbs and not self.hidden_noise:
            able = ", ".join(repr(name) for name, rule in rules().items() if rule.hidden_noise)
            raise NoiseInaccessibleError(
                f"{self.name!r} multiplies the loss by the noise of every node, and this network "
                f"is on a chip whose noise cannot be read; {able} need only its activity"
            )

    @property
    def guided(self) -> bool:
        """Whether its estimate lies along the gradient, so that what suits backprop suits it."""
        return self.feedback or self.traits.guided or not self.perturbs

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings where a user gives none; `nprobot.learning_rule` and all else use them."""
        return {**SETTINGS, **self.traits.settings}

    @property
    def colour(self) -> str:
        """The colour in figures."""
        return self.traits.colours[self.decorrelated]


Class = TypeVar("Class", bound=type)

_TRAITS: dict[str, RuleTraits] = {}
_CLASSES: dict[str, type] = {}


def rule(**traits: Any) -> Callable[[Class], Class]:
    """Register a class as a learning rule; put it before the class.

    Args:
        traits: of `RuleTraits`, as literals; the module is known.
    """

    def register(cls: Class) -> Class:
        own = RuleTraits(**traits, module=cls.__module__)
        cls.traits = own  # type: ignore[attr-defined]
        _TRAITS[own.name] = own
        _CLASSES[traits["name"]] = cls
        return cls

    return register


def rules() -> dict[str, Rule]:
    """All rules by name: those of the package, those that are registered; each with its D twin.

    Peers come last.
    """
    traits = {**_shipped_rules(), **_TRAITS}
    return {
        name: Rule(name, one, decorrelated)
        for peer in (False, True)
        for decorrelated in (False, True)
        for one in traits.values()
        if one.peer == peer
        for name in (f"{'d' * decorrelated}{one.name}",)
    }


def rule_named(name: str, *, feedback: object = False) -> Rule:
    """A rule by its name.

    Args:
        name: such as ``"dnp+feedback"``; ``"module:name"`` imports the module first.
        feedback: true for the same with learned feedback (how earlier versions said it).

    Raises:
        RuleError: there is no such rule; the message has the nearest.
    """
    known = rules()
    module, _, plain = str(name).rpartition(":")
    if module:
        import_named(module)
        known = rules()
    if feedback and not plain.endswith(FEEDBACK):
        if f"{plain}{FEEDBACK}" not in known and plain in known:
            able = ", ".join(n.removesuffix(FEEDBACK) for n, r in known.items() if r.feedback)
            raise RuleError(f"feedback is for {able}, not for {plain!r}")
        plain = f"{plain}{FEEDBACK}"
    if plain not in known:
        near = near_matches(plain, known)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise RuleError(f"unknown learning rule {name!r}{hint} Known: {', '.join(known)}")
    return known[plain]


def import_trusted(
    name: str, source: str, trust: bool = False, kwargs: Mapping[str, Any] | None = None
) -> None:
    """Import the modules that a file names, if the user has said that they may be.

    Importing runs code. What you name yourself is imported, and so is what already is.

    Args:
        name: the name of an environment or a rule, perhaps in the form ``module:name``.
        source: what gives it, such as "the policy".
        trust: whether the user has said so.
        kwargs: arguments of the environment, which may name wrappers and reward terms.

    Raises:
        ConfigError: one would have to be imported and may not be, or cannot be.
    """
    for given, module in _modules(name, kwargs):
        if module in sys.modules:
            continue
        if not trust:
            raise ConfigError(
                f"{source} asks for {given!r}: the module {module!r} would be imported, and can do "
                "whatever its author wants. If you trust it, say --trust (in Python: import "
                f"{module})."
            )
        try:
            import_named(module)
        except ConfigError as error:
            raise ConfigError(f"{source} asks for {given!r}: {error}") from error


def _modules(name: str, kwargs: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What is given as ``module:name``, and the module: an environment, wrappers, reward terms."""
    kwargs = kwargs or {}
    terms = [key.partition(".")[2] for key in kwargs if ":" in key]  # reward.my_terms:lean
    names = [name, *str(kwargs.get("wrapper", "")).split(","), *terms]
    return [(n.strip(), module) for n in names if (module := n.strip().rpartition(":")[0])]


def trust_flag(name: str, kwargs: Mapping[str, Any] | None = None) -> str:
    """`` --trust`` if `import_trusted` wants it, for commands that we print."""
    needed = any(module != "nprobot" for _, module in _modules(name, kwargs))
    return " --trust" if needed else ""


def rule_class(traits: RuleTraits) -> Any:  # noqa: ANN401 - a class, which imports torch
    """The class of a rule."""
    if traits.name not in _CLASSES:
        importlib.import_module(traits.module)
    return _CLASSES[traits.name]


@functools.cache
def _shipped_rules() -> dict[str, RuleTraits]:
    """Traits of the rules in `nprobot.learning`, read from the source."""
    found: dict[str, RuleTraits] = {}
    package = Path(__file__).parent
    for file in sorted((package / "learning").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "@catalogue.rule(" not in text:
            continue
        for node in ast.parse(text).body:
            for call in getattr(node, "decorator_list", ()):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "catalogue.rule":
                    traits = {k.arg or "": ast.literal_eval(k.value) for k in call.keywords}
                    module = ".".join(file.relative_to(package.parent).with_suffix("").parts)
                    found[traits["name"]] = RuleTraits(**traits, module=module)
    return found


ON_POLICY = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "max_grad_norm")
OFF_POLICY = (
    *("learning_starts", "buffer_size", "batch_size", "train_freq", "gradient_steps"),
    *("tau", "gamma", "exploration_noise", "hindsight"),
)


@dataclass(frozen=True)
class Algorithm:
    """What is known of an algorithm without importing it.

    Attributes:
        name: by which users call it.
        title: for people.
        about: what it is, in a line.
        path: the path of its class, ``module:name``.
        options: which of `nprobot.training.AlgorithmOptions` it has.
        defaults: values of options, learning rate and network where a user gives none; those of
            stable-baselines3 where it has the algorithm.
        unguided: where they differ under a rule whose estimate is noisy (`Rule.guided` is false).
        on_policy: whether it learns only from what it has just done.
        continuous: whether it takes bounded continuous actions alone.
        rule: what learns where nothing else is asked for.
        envs: environments side by side.
        normalise: what running statistics scale.
        log_interval: argument of `learn`; of off-policy algorithms episodes between two rows.
        row_every: updates between two rows of the log, where `learn` logs all of them.
        compares: whether it can compare its gradients with backprop's.
    """

    name: str
    title: str
    about: str
    path: str
    options: tuple[str, ...]
    defaults: Mapping[str, Any]
    unguided: Mapping[str, Any] = field(default_factory=dict)
    on_policy: bool = True
    continuous: bool = False
    rule: str = DEFAULT_RULE
    envs: int = 8
    normalise: Normalise = "on"
    log_interval: int = 1
    row_every: int = 1
    compares: bool = True

    def settings(self, rule: Rule) -> dict[str, Any]:
        """Learning rate, network and options where a user gives none, under some rule."""
        return {**self.defaults, **({} if rule.guided else self.unguided)}

    def load(self) -> Any:  # noqa: ANN401 - a class, which imports torch
        """The class."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)


_LEARNING: dict[str, Any] = {"learning_rate": 3e-4, "lr_schedule": "constant"}
_NOISY: dict[str, Any] = {"learning_rate": 3e-3, "lr_schedule": "linear"}
_OFF_POLICY_DEFAULTS: dict[str, Any] = {
    **_LEARNING,
    "hidden": (256, 256),
    "activation": "relu",
    "learning_starts": 100,
    "buffer_size": 1_000_000,
    "batch_size": 256,
    "train_freq": 1,
    "gradient_steps": 1,
    "tau": 0.005,
    "gamma": 0.99,
    "exploration_noise": 0.0,
    "hindsight": 0.0,
}

_SDE: Mapping[str, Any] = {"use_sde": False, "sde_sample_freq": -1}

ALGORITHMS: Mapping[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            name="ppo",
            title="PPO",
            about="proximal policy optimisation (Schulman et al. 2017)",
            path="nprobot.algorithms.ppo:PPO",
            options=(
                *(*ON_POLICY, "clip_range", "ent_coef", "vf_coef", "target_kl"),
                *("critic_warmup", *_SDE),
            ),
            defaults={
                **_LEARNING,
                "hidden": (64, 64),
                "activation": "tanh",
                "n_steps": 2048,
                "batch_size": 64,
                "n_epochs": 10,
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "clip_range": 0.2,
                "ent_coef": 0.0,
                "vf_coef": 0.5,
                "max_grad_norm": 0.5,
                "target_kl": None,
                "critic_warmup": 0,
                **_SDE,
            },
            # Large batches and no clipping: the norm of an estimate is mostly noise.
            unguided={**_NOISY, "batch_size": 256, "max_grad_norm": None},
        ),
        Algorithm(
            name="nrl",
            title="NRL",
            about="noise-based reward-modulated learning, on-line (arXiv 2503.23972)",
            path="nprobot.algorithms.nrl:NRL",
            options=(
                *("n_steps", "gamma", "gae_lambda", "max_grad_norm"),
                *("noise_source", "node_noise", "references", "baseline", "critic_epochs"),
            ),
            defaults={
                "learning_rate": 3e-3,
                "lr_schedule": "constant",
                "hidden": (64, 64),
                "activation": "tanh",
                "n_steps": 32,
                "gamma": 0.99,
                "gae_lambda": 0.9,
                "max_grad_norm": None,
                "noise_source": "network",
                "node_noise": 0.1,
                "references": 1,
                "baseline": "critic",
                "critic_epochs": 4,
            },
            continuous=True,
            rule="danp",  # from one reward a step learned feedback has not learned faster
            row_every=10,
            compares=False,
        ),
        Algorithm(
            name="sac",
            title="SAC",
            about="soft actor-critic (Haarnoja et al. 2018)",
            path="nprobot.algorithms.sac:SAC",
            options=(*OFF_POLICY, "ent_coef", "ent_coef_start", "target_update_interval", *_SDE),
            defaults={
                **_OFF_POLICY_DEFAULTS,
                "ent_coef": None,
                "ent_coef_start": 1.0,
                "target_update_interval": 1,
                **_SDE,
            },
            unguided={**_NOISY, "hidden": (64, 64)},
            on_policy=False,
            continuous=True,
            envs=1,
            normalise="off",
            log_interval=4,
        ),
        Algorithm(
            name="td3",
            title="TD3",
            about="twin delayed DDPG (Fujimoto et al. 2018)",
            path="nprobot.algorithms.td3:TD3",
            options=(*OFF_POLICY, "policy_delay", "target_policy_noise", "target_noise_clip"),
            defaults={
                **_OFF_POLICY_DEFAULTS,
                "learning_rate": 1e-3,
                "hidden": (400, 300),
                # stable-baselines3 adds none; the paper does (section 6.1).
                "exploration_noise": 0.1,
                "policy_delay": 2,
                "target_policy_noise": 0.2,
                "target_noise_clip": 0.5,
            },
            unguided={**_NOISY, "hidden": (64, 64)},
            on_policy=False,
            continuous=True,
            envs=1,
            normalise="off",
            log_interval=4,
        ),
    )
}


def named_object(name: str, what: str) -> Any:  # noqa: ANN401 - whatever the user means
    """What ``module:name`` names: from Python's path, else from the working directory.

    Args:
        name: such as ``my_terms:lean``.
        what: it is, for messages.

    Raises:
        ConfigError: the module cannot be imported, or has nothing of that name.
    """
    module, _, attribute = name.rpartition(":")
    if not module or not attribute:
        raise ConfigError(f"{what} is named as module:name, got {name!r}")
    try:
        found = getattr(import_named(module), attribute, None)
    except ConfigError as error:
        raise ConfigError(f"{what} {name!r}: {error}") from error
    if found is None:
        raise ConfigError(f"{what} {name!r}: the module {module!r} has no {attribute!r}")
    return found


def learner_title(rule: str, samples: int | None = None) -> str:
    """A rule with its K, for people, such as ``NP + feedback, K = 1``.

    Args:
        rule: its name; one that is not known (of a policy from elsewhere) is shown as it is.
        samples: K; None to leave it out.
    """
    known = rules().get(rule)
    title = known.title if known else rule.upper()
    return f"{title}, K = {samples}" if samples and known and known.perturbs else title


def environment_title(env: str, kwargs: Mapping[str, Any]) -> str:
    """An environment in a few words; of a robot from a file, which, and what it does.

    Args:
        env: its id.
        kwargs: arguments of its constructor.
    """
    if "model" not in kwargs:
        return env
    task = str(kwargs.get("task", ""))
    words = [Path(str(kwargs["model"])).stem, task if "=" not in task else "a custom task"]
    return f"{env} ({', '.join(filter(None, words))})"


def actuator_presets() -> tuple[str, ...]:
    """Names of the noisy actuators that come with the package."""
    from .envs.actuators.presets import PRESETS

    return tuple(PRESETS)


def sensors() -> tuple[str, ...]:
    """Names of the sensors that can tell what noisy actuators did."""
    from .envs.actuators.presets import SENSORS

    return tuple(SENSORS)
