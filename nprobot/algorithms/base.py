"""What our algorithms share: rule, stable-baselines3's arguments and files, and checkpoints."""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor, nn
from typing_extensions import override

from nprobot import catalogue
from nprobot.errors import ArchitectureError, EnvironmentWarning, RuleError
from nprobot.learning.rule import LearningRule
from nprobot.learning.rules import learning_rule
from nprobot.policies.chip.contract import Chip
from nprobot.policies.chip.crossbar import (
    ON_CHIP,
    is_device,
    on_chip,
    put_on_chip,
    read_back,
    restore_chip,
    save_chip,
)
from nprobot.policies.chip.nonidealities import ChipSpec, resolve
from nprobot.policies.gsde import StateDependentStd
from nprobot.policies.layers import (
    BiasHead,
    fit_state,
    fold,
    folded_state,
    is_decorrelated,
    is_decorrelated_layer,
)
from nprobot.policies.sb3_networks import Actor, Critic
from nprobot.runs.state import restore_optimizer

from .checks import action_notes, check_device, check_spaces
from .observing import observe


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
        seed: the seed of its noise, unless the settings have one.
        default: name of the rule where none is given.

    Raises:
        RuleError: unknown rule, a setting out of range, or settings for a rule that is made.
    """
    if isinstance(rule, LearningRule):
        if settings:
            raise RuleError("rule_kwargs is for a rule given by name; set them on the rule itself")
        return rule
    return learning_rule(rule or default, **{"seed": seed, **(settings or {})})


def with_settings(rule: LearningRule, settings: Mapping[str, Any]) -> LearningRule:
    """A rule like another one but for some settings.

    Raises:
        RuleError: a setting is out of range.
    """
    names = ("sigma", "samples", "noise", "decorrelation_lr", "whitening", "decorrelation_interval")
    own = {name: getattr(rule, name) for name in names}
    return learning_rule(rule.name, **own | {"antithetic": rule.source.antithetic, **settings})


def sb3_arguments(algorithm: str, rule: LearningRule, given: Mapping[str, Any]) -> dict[str, Any]:
    """What to make stable-baselines3's algorithm with.

    Args:
        algorithm: name in the catalogue.
        rule: where its estimate is noisy, some defaults are others than stable-baselines3's.
        given: arguments by name; None for the default, but of `max_grad_norm` for no limit.
    """
    arguments = {name: value for name, value in given.items() if value is not None}
    if "max_grad_norm" in given:
        arguments["max_grad_norm"] = given["max_grad_norm"]
    if not rule.entry.guided:
        own = dict(catalogue.ALGORITHMS[algorithm].unguided)
        if own.pop("lr_schedule", None) == "linear":
            own["learning_rate"] = LinearSchedule(own["learning_rate"], 0.0, 1.0)
        if hidden := own.pop("hidden", None):
            network = {"net_arch": list(hidden)} | dict(arguments.get("policy_kwargs", {}))
            arguments["policy_kwargs"] = network
        arguments = own | arguments
    if arguments.get("max_grad_norm", 0.0) is None:
        arguments["max_grad_norm"] = float("inf")  # stable-baselines3 compares with it
    return arguments


def by_name(algorithm: type[BaseAlgorithm], values: Sequence[Any]) -> dict[str, Any]:
    """Arguments by position, after policy and environment, in the order of an SB3 algorithm.

    Raises:
        TypeError: there are more than it takes.
    """
    names = list(inspect.signature(algorithm).parameters)[2:]
    if len(values) > len(names):
        raise TypeError(
            f"{algorithm.__name__} takes {len(names) + 2} arguments, got {len(values) + 2}"
        )
    return dict(zip(names, values, strict=False))


class Resumable(BaseAlgorithm):
    """A stable-baselines3 algorithm that learns by a rule and can be stopped between two updates.

    `state_dict` holds everything but the environments and the generators of the process: weights,
    optimisers, the rule, counters, and what the algorithm remembers beside.
    """

    rule: LearningRule
    continuous: ClassVar[bool] = True
    """Whether it takes bounded continuous actions alone."""
    schedule_timesteps: int | None = None
    """Steps of the whole run, for schedules; None for where the present call of `learn` ends."""

    @classmethod
    def _wrap_env(cls, env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        venv = BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        check_spaces(
            venv.observation_space, venv.action_space, cls.__name__, continuous=cls.continuous
        )
        observe(venv)
        if isinstance(inner := venv.unwrapped, DummyVecEnv):  # a run reports them itself
            for note in action_notes(
                venv.action_space, inner.envs[0], cls.__name__, scaled=cls.continuous
            ):
                warnings.warn(note, EnvironmentWarning, stacklevel=2)
        return venv

    def __repr__(self) -> str:
        policy = getattr(self, "policy_class", None)
        return (
            f"{type(self).__name__}({getattr(policy, '__name__', policy)}, rule={self.rule!r}, "
            f"num_timesteps={self.num_timesteps})"
        )

    @property
    def forward_passes(self) -> int:
        """Network passes of one sample that learning took so far."""
        return self.rule.forward_passes

    @property
    def backward_passes(self) -> int:
        """The same backwards; 0 under the perturbation rules."""
        return self.rule.backward_passes

    def state_dict(self) -> dict[str, Any]:
        """The state between two updates: tensors, arrays, numbers, strings, containers of these."""
        read_back(self.policy)
        return {
            "parameters": self.get_parameters(),
            "memory": self._memory(),
            "rule": self.rule.state_dict(),
            "algorithm": {
                "num_timesteps": self.num_timesteps,
                "n_updates": self._n_updates,
                "episodes_begun": self._episode_num,
                "progress_remaining": self._current_progress_remaining,
                "episodes": list(self.ep_info_buffer or ()),
                "successes": list(self.ep_success_buffer or ()),
                "observations": self._last_obs,
                "raw_observations": self._last_original_obs,
                "episode_starts": self._last_episode_starts,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state.

        Raises:
            ArchitectureError: the weights are those of another network.
            ValueError: it does not fit otherwise.
        """
        self._check_architecture(state["parameters"]["policy"])
        for name in self._get_torch_save_params()[0]:
            part: Any = recursive_getattr(self, name)
            saved = state["parameters"][name]
            if isinstance(part, torch.optim.Optimizer):
                restore_optimizer(part, saved)
            else:
                part.load_state_dict(saved, strict=True)
        self._restore_memory(state["memory"])
        self.rule.load_state_dict(state["rule"])
        counters = state["algorithm"]
        self.num_timesteps = counters["num_timesteps"]
        self._n_updates = counters["n_updates"]
        self._episode_num = counters["episodes_begun"]
        self._current_progress_remaining = counters["progress_remaining"]
        window = self._stats_window_size
        self.ep_info_buffer = deque(counters["episodes"], maxlen=window)
        self.ep_success_buffer = deque(counters["successes"], maxlen=window)
        self._last_obs = counters["observations"]
        self._last_original_obs = counters["raw_observations"]
        self._last_episode_starts = counters["episode_starts"]

    @override
    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # What remained when the data were begun: with what remains after, the last update of each
        # call of `learn` would have no rate, and a call of one update would learn nothing.
        total = max(total_timesteps, self.schedule_timesteps or 0)
        remaining = 1.0 - (num_timesteps - self.steps_of_an_update()) / total
        self._current_progress_remaining = min(max(remaining, 0.0), 1.0)

    def steps_of_an_update(self) -> int:
        """Environment steps since progress was last updated."""
        raise NotImplementedError

    def restart_episodes(self) -> np.ndarray[Any, Any]:
        """End the running episodes as at a time limit, and begin new ones.

        The critic has valued, or will value, what would have come.

        Returns:
            The first observations, before any normaliser.
        """
        assert self.env is not None, "set up with its environments"
        self._last_obs = self.env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(self.env.num_envs, np.bool_)
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
        return np.asarray(self._last_original_obs if self._vec_normalize_env else self._last_obs)

    def _memory(self) -> dict[str, Any]:
        """What is kept from one update to the next beside weights, optimisers and counters."""
        names = self._get_torch_save_params()[1]
        memory: dict[str, Any] = {
            "variables": {name: recursive_getattr(self, name) for name in names}
        }
        if on_chip(self.policy):
            memory["chip"] = np.frombuffer(save_chip(self.policy), np.uint8)
        return memory

    def _restore_memory(self, memory: Mapping[str, Any]) -> None:
        if on_chip(self.policy):
            restore_chip(self.policy, memory["chip"].tobytes())
        for name in self._get_torch_save_params()[1]:
            recursive_getattr(self, name).data.copy_(memory["variables"][name])

    def _check_architecture(self, weights: Mapping[str, Tensor]) -> None:
        expected = {name: tuple(t.shape) for name, t in self.policy.state_dict().items()}
        given = {name: tuple(t.shape) for name, t in weights.items()}
        for name in sorted(expected.keys() | given.keys()):
            if expected.get(name) != given.get(name):
                raise ArchitectureError(
                    f"the checkpoint is of another network: its {name} has shape "
                    f"{given.get(name)}, in the run's configuration it has {expected.get(name)} "
                    "(None: there is none)"
                )


class RuleAlgorithm(Resumable):
    """A stable-baselines3 algorithm with one more argument, the rule that estimates the gradients.

    Its arguments are stable-baselines3's, by the same names and in the same order, and by name:

    Args:
        policy: as in SB3, ``"MlpPolicy"`` for example.
        env: as in SB3.
        args: SB3's other arguments by position, from `learning_rate` on.
        rule: a name for `nprobot.learning_rule`, or a rule. Left out: NP with learned feedback.
        rule_kwargs: settings for a rule given by name (its own where silent), such as
            ``{"samples": 1}``. Its seed comes from `seed`.
        alignment_interval: compare the estimate with backpropagation's gradient in every n-th
            update and log the cosines, ``train/alignment_actor`` and ``train/alignment_critic``; 0
            for never. Costs a backward pass then, for show: learning does not see it.
        schedule_timesteps: steps of the whole run, for schedules, where `learn` is called for parts
            of it. Left out: up to where the present call of `learn` ends.
        chip: puts what acts on a noisy chip, in rollouts, learning and evaluation. An emulated one
            by what is wrong with it, as of `nprobot.NoisyNetwork`: PPO's critic is on it, too;
            critics of SAC and TD3 are the learner's, as their targets need an exact copy. Or a
            device, `nprobot.Chip`, the address of one, or a preset that is written by pulses: the
            actor's linear layers are on it, but for SAC's heads. A log standard deviation that
            does not depend on the state is no node of it.
        device_seed: which chip it is; from `seed` if None.
        kwargs: every other argument of SB3's, with its meaning and default.

    Raises:
        RuleError: unknown rule.
        ConfigError: the device is not there, or the optimiser cannot be used.
        EnvironmentUnavailableError: it would learn wrongly in these spaces.
        ArchitectureError: the policy does something that would not learn.
        UnsupportedLayerError: the policy has layers that perturbation cannot reach.
        NoiseInaccessibleError: it is on a chip, and the rule has to know the noise.
    """

    name: ClassVar[str]
    """In the catalogue."""
    plain: ClassVar[type[BaseAlgorithm]]
    """The algorithm of stable-baselines3."""

    _decorrelation: dict[str, tuple[Tensor, Tensor]] | None = None
    """W and R of decorrelated layers, in a file whose policy is plain."""
    _default_rule: LearningRule | None = None
    """What `load` makes a model with, before the file says which rule it learned by."""
    _highest_rate = 0.0
    chip: ChipSpec | Chip | None = None
    device_seed: int | None = None

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *args: Any,
        rule: str | LearningRule | None = None,
        rule_kwargs: dict[str, Any] | None = None,
        alignment_interval: int = 0,
        schedule_timesteps: int | None = None,
        chip: ChipSpec | Chip | None = None,
        device_seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        given = by_name(self.plain, args)
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"{type(self).__name__} got {', '.join(sorted(twice))} twice")
        given |= kwargs
        check_device(given.get("device", "auto"))
        self.rule = make_rule(rule, rule_kwargs, given.get("seed"))
        self._default_rule = self.rule
        self.alignment_interval = alignment_interval
        self.schedule_timesteps = schedule_timesteps
        self.chip = chip if chip is None or is_device(chip) else resolve(cast("ChipSpec", chip))
        self.device_seed = device_seed
        arguments = self._adapted(policy, sb3_arguments(self.name, self.rule, given))
        super().__init__(policy, env, **arguments)

    def _adapted(self, policy: str | type[BasePolicy], arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of SB3's, with what the rule needs of them."""
        return arguments

    @override
    def _setup_model(self) -> None:
        settings = vars(self).pop("rule_kwargs", None)  # of `load`
        if isinstance(self.rule, str):
            self.rule = make_rule(self.rule, settings, self.seed)
        elif settings:
            self.rule = with_settings(self.rule, {"seed": self.seed, **settings})
        super()._setup_model()  # type: ignore[safe-super]
        for module in self.policy.modules():  # the policy, and its actor and critics
            if isinstance(module, BaseModel):
                module.save = partial(save_policy, module)  # type: ignore[method-assign]
        if self.rule.name != "bp":
            self._look_at_policy()
        if self.chip is not None:
            self._put_on_chip(self.chip)

    def _put_on_chip(self, chip: ChipSpec | Chip) -> None:
        """Put what acts, and what else is on the device, on the chip; once they are decorrelated.

        The noise is another one in a model that was loaded: it does not begin anew.
        """
        self.rule.entry.check_on_chip()
        seed = None if self.seed is None else [self.seed, self.num_timesteps]
        noise = np.random.SeedSequence(seed)
        device = self.seed if self.device_seed is None else self.device_seed
        if is_device(chip):
            put_on_chip(self._chain(), chip, seed=noise, device_seed=device)
            return
        for number, part in enumerate(self._on_device()):
            layers = nn.ModuleList([m for m in part.modules() if type(m) in ON_CHIP])
            if len(layers):
                # What acts is the same device as a policy file that is put on it.
                words = device if device is None or not number else [device, number]
                put_on_chip(
                    layers,
                    chip,
                    seed=noise.spawn(1)[0],
                    device_seed=np.random.SeedSequence(words),
                )

    def _chain(self) -> nn.Module:
        """What a device computes of what acts, layer after layer."""
        return self._on_device()[0]

    def _on_device(self) -> list[nn.Module]:
        """What a chip holds: first what acts, and then all of it."""
        raise NotImplementedError

    def _look_at_policy(self) -> None:
        """Find the networks that learn, and check them if they are others than before."""
        raise NotImplementedError

    @override
    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._setup_learn(*args, **kwargs)
        if self.rule.name != "bp":
            self._look_at_policy()  # its modules may be others now
            self._highest_rate = max(self.lr_schedule(i / 100) for i in range(101))
        return prepared

    @override
    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        if self.rule.name == "bp":
            BaseAlgorithm._update_current_progress_remaining(self, num_timesteps, total_timesteps)
        else:
            super()._update_current_progress_remaining(num_timesteps, total_timesteps)

    def _share_of_rate(self) -> float:
        """The learning rate now, as a share of the schedule's highest; 0 where all are 0.

        R follows the schedule of the weights, or it would keep moving under weights at rest.
        """
        rate = self.lr_schedule(self._current_progress_remaining)
        return rate / self._highest_rate if self._highest_rate > 0.0 else 0.0

    @override
    @classmethod
    def load(cls, path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a model; arguments as in SB3, and two more by name.

        Args:
            path: file of `save`, or of stable-baselines3's.
            args: SB3's other arguments, from `env` on.
            kwargs: the same by name; `rule` and `rule_kwargs` to continue by another rule than the
                one that it has learned by; other attributes to change.
        """
        changes = {
            name: value
            for name, value in kwargs.items()
            if value is not None or name not in ("rule", "rule_kwargs")
        }
        if "policy_kwargs" in changes:
            # SB3 compares them with the stored ones, of which one is ours.
            data = load_from_zip_file(path, custom_objects=changes.get("custom_objects"))[0] or {}
            stored, ours = data.get("policy_kwargs", {}), "share_features_extractor"
            own = {ours: stored[ours]} if ours in stored else {}
            changes["policy_kwargs"] = own | changes["policy_kwargs"]
            if not isinstance(path, str | Path):
                path.seek(0)
        model = super().load(path, *args, **changes)
        if model.rule is model._default_rule:
            warnings.warn(
                f"{path if isinstance(path, str | Path) else 'the file'} does not say by which "
                f"rule its model learned, as a plain stable-baselines3 file; it continues by "
                f"{model.rule.entry.title} ({model.rule.name!r}). For another one give "
                "load(..., rule=...), such as rule='bp' for backpropagation",
                stacklevel=2,
            )
        model._default_rule = None
        return model

    @override
    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """Set parameters as SB3 does; R of a decorrelated policy is folded in, or starts as I."""
        params = load_path_or_dict
        if not isinstance(params, dict):
            _, params, _ = load_from_zip_file(params, device=device, load_data=False)
        if "policy" in params:
            params = {**params, "policy": fit_state(self.policy, params["policy"])}
        super().set_parameters(params, exact_match, device)
        self._restore_decorrelation()

    @override
    def save(
        self,
        path: Any,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save as SB3 does; a decorrelated policy folded, for SB3 to read, and with W and R."""
        if is_decorrelated(self.policy):
            self._decorrelation = {
                name: (layer.weight.detach().cpu(), layer.R.cpu())
                for name, layer in self.policy.named_modules()
                if is_decorrelated_layer(layer)
            }
        try:
            super().save(path, exclude, include)
        finally:
            self._decorrelation = None

    @override
    def get_parameters(self) -> dict[str, Any]:
        """The parameters as SB3 gives them."""
        parameters = super().get_parameters()
        if self._decorrelation is not None:  # while it is being saved
            parameters["policy"] = folded_state(self.policy)
        return parameters

    @torch.no_grad()
    def _restore_decorrelation(self) -> None:
        """Take W and R apart again, which a file has as one; but not if that one has learned on."""
        layers = dict(self.policy.named_modules())
        for name, (weight, R) in (self._decorrelation or {}).items():
            layer = layers.get(name)
            if not is_decorrelated_layer(layer):
                continue
            weight, R = weight.to(layer.weight), R.to(layer.R)
            together = (weight.flatten(1) @ R).view_as(weight)
            if torch.allclose(together, layer.weight, 1e-4, 1e-6):
                layer.weight.copy_(weight)
                layer.R.copy_(R)
        self._decorrelation = None

    @override
    def _excluded_save_params(self) -> list[str]:
        left_out = [*super()._excluded_save_params(), "_default_rule"]
        # A device is not in a file; a model that is loaded has none, or the one at an address.
        return [*left_out, "chip"] if isinstance(self.chip, Chip) else left_out


def save_policy(policy: BaseModel, path: Any) -> None:  # noqa: ANN401 - whatever torch writes to
    """What SB3's ``policy.save(path)`` does, so that its class's ``load(path)`` gives the same one.

    With R multiplied into the weights, as the class makes plain layers; and with the choice of one
    or two features extractors, which SB3 forgets.
    """
    data = {
        name: fold(value) if isinstance(value, nn.Module) else value
        for name, value in policy._get_constructor_parameters().items()
    }
    shared = getattr(policy, "share_features_extractor", None)
    if shared is not None and accepts(type(policy), "share_features_extractor"):
        data["share_features_extractor"] = shared
    torch.save({"state_dict": folded_state(policy), "data": data}, path)


def accepts(kind: type, name: str) -> bool:
    """Whether a class takes an argument of a name."""
    parameters = inspect.signature(kind).parameters
    some = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return some or name in parameters


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Let Adam step in one kernel, unless something else was asked for: half of its time.

    Its dozen small operations for every parameter took as long as a noisy pass.
    """
    if type(optimizer) is torch.optim.Adam:
        for group in optimizer.param_groups:
            if group["fused"] is None and group["foreach"] is None:
                group["fused"] = True


def same_modules(some: Iterable[nn.Module], others: Iterable[nn.Module]) -> bool:
    """Whether views of a policy hold the same modules and parameters of it."""
    return _parts(some) == _parts(others)


def _parts(views: Iterable[nn.Module]) -> list[int]:
    found: list[int] = []
    for view in views:
        found += [id(p) for p in view.parameters()]
        # Leaves only: a slice of a Sequential is a new container of the same modules.
        leaves = (m for m in view.modules() if not any(True for _ in m.children()))
        found += [id(m) for m in leaves if m is not view and not isinstance(m, _MADE)]
    return found


_MADE = (Actor, Critic, BiasHead, StateDependentStd)
"""Modules that a view makes for itself."""
