"""What an algorithm would learn wrongly, or not at all, is refused here in words."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from nprobot.errors import ArchitectureError, ConfigError, EnvironmentUnavailableError
from nprobot.learning.activity import Activity, Tree, tensors, tree_map
from nprobot.learning.nodes import node_layers
from nprobot.policies.chip.crossbar import on_chip

TOLERANCE = 1e-4
"""How far the networks that learn may be from those that act, absolute and relative."""


def check_device(device: torch.device | str) -> None:
    """Refuse a GPU that is not there, where stable-baselines3 takes the CPU without a word.

    Raises:
        ConfigError: it is not there.
    """
    wanted = torch.device("cpu" if device == "auto" else device)
    if wanted.type != "cuda":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (wanted.index or 0) >= count:
        raise ConfigError(
            f"device={str(device)!r}: torch sees {count or 'no'} CUDA device{'s' * (count > 1)} on "
            "this machine; choose another, 'cpu', or 'auto' for a GPU only where there is one"
        )


def check_spaces(
    observations: spaces.Space[Any], actions: spaces.Space[Any], name: str, *, continuous: bool
) -> None:
    """Refuse spaces in which an algorithm would learn wrongly.

    Args:
        observations: the observations of the environment.
        actions: the actions of the environment.
        name: the name of the algorithm.
        continuous: whether it takes bounded continuous actions alone.

    Raises:
        EnvironmentUnavailableError: one of them will not do.
    """
    if reason := _unfit_actions(actions, continuous):
        raise EnvironmentUnavailableError(f"{name} cannot learn actions in {actions}: {reason}")
    if isinstance(observations, spaces.Dict | spaces.Tuple):
        values = observations.spaces
        leaves = list(values.values() if isinstance(values, dict) else values)
    else:
        leaves = [observations]
    for leaf in leaves:
        if reason := _shifted(leaf):
            raise EnvironmentUnavailableError(
                f"{name} cannot learn from observations in {leaf}: {reason}"
            )


def _unfit_actions(space: spaces.Space[Any], continuous: bool) -> str | None:
    """Why there is no policy for a space of actions; None if there is."""
    if isinstance(space, spaces.Box):
        if 0 in space.shape:
            return "there are none"
        if space.dtype.kind != "f":
            return (
                f"they are numbers of type {space.dtype}, and a network gives any real number; "
                "make them floats, or a Discrete or MultiDiscrete space"
            )
        if not space.is_bounded("both"):
            return (
                "they have no bound on at least one side; wrap the environment in "
                "gymnasium.wrappers.RescaleAction, or give its action space finite bounds"
            )
        if continuous and (space.low == space.high).any():
            return (
                "one of them has no range, so it cannot be scaled to ±1; leave it out of the "
                "action space"
            )
        return None
    if continuous:
        return "it is for continuous ones, a bounded Box; PPO learns discrete ones"
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) and len(space.shape) != 1:
        return "they lie in more than one dimension; flatten them"
    known = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    if not isinstance(space, known):
        return "Box, Discrete, MultiDiscrete and MultiBinary have a policy"
    return _shifted(space)


def _shifted(space: spaces.Space[Any]) -> str | None:
    """Why a discrete space that does not begin at 0 would be taken for another one."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start):
        return (
            f"they begin at {space.start}, and policies count from 0; begin at 0 and add the start "
            "inside the environment"
        )
    return None


SMALLEST, LARGEST = 0.1, 10.0
"""Half ranges of actions for which first actions of spread 1 are neither coarse nor lost."""


def action_notes(actions: spaces.Space[Any], env: Any, name: str, *, scaled: bool) -> Iterator[str]:  # noqa: ANN401
    """Where the first actions, around 0 or the middle of the range, are far from what works.

    Args:
        actions: the actions of the environment.
        env: the environment itself, whose model may have a home pose.
        name: the name of the algorithm.
        scaled: whether it scales actions to their range; without, they begin around 0, spread 1.
    """
    if not isinstance(actions, spaces.Box):
        return
    low, high = actions.low.ravel(), actions.high.ravel()
    half, middle = (high - low) / 2, (high + low) / 2
    moves = half > 0
    beside = moves & (np.abs(middle) > half / 2)
    if not scaled and (bad := moves & ((half < SMALLEST) | (half > LARGEST)) | beside).any():
        i = int(np.flatnonzero(bad)[0])
        yield (
            f"action {i} ranges from {low[i]:g} to {high[i]:g}, and {name} begins with actions "
            "around 0 of spread 1. Wrap the environment in gymnasium.wrappers.RescaleAction "
            "(min_action=-1, max_action=1)"
        )
    begin = middle if scaled else np.zeros_like(middle)
    home = _home(env, low, high)
    if home is not None and (off := moves & (np.abs(home - begin) > half / 2)).any():
        i = int(np.flatnonzero(off)[0])
        yield (
            f"the model's home pose holds action {i} at {home[i]:g}, and {name} begins with "
            f"actions around {begin[i]:g} (range {low[i]:g} to {high[i]:g}), so the robot leaves "
            "its home at once. Let the environment add the home pose to the actions, as "
            "nprobot/Robot-v0 does"
        )


def _home(env: Any, low: Any, high: Any) -> Any:  # noqa: ANN401 - an environment, arrays
    """Commands of a MuJoCo model's home keyframe, where actions are its commands; or None."""
    model: Any = getattr(getattr(env, "unwrapped", None), "model", None)
    ranges, keys = getattr(model, "actuator_ctrlrange", None), getattr(model, "key_ctrl", None)
    if ranges is None or keys is None or not len(keys):
        return None
    if ranges.shape != (len(low), 2) or not np.allclose(ranges, np.stack([low, high], 1)):
        return None
    names = [model.key(i).name for i in range(model.nkey)]
    return keys[names.index("home") if "home" in names else 0]


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimiser that cannot step on gradients that a rule has estimated.

    Raises:
        ConfigError: it needs a loss to differentiate, or to be differentiated through.
    """
    name = type(optimizer).__name__
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            f"{name} evaluates the loss several times a step, and the rules here estimate one "
            "gradient a minibatch; use Adam, SGD or another optimiser whose step() takes nothing"
        )
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise ConfigError(
            f"{name} with differentiable=True builds a graph through its steps, and there is no "
            "autograd here to use it; leave it out of optimizer_kwargs"
        )


class ViewChecks:
    """What a policy computes, next to the networks that learn in its place.

    The rules perturb *views*: modules made of the policy's own layers. A policy that does something
    else with them, or has parameters beside them, would act in one way and learn in another.

    Args:
        policy: where names of parameters come from.
        views: the networks that learn, by name.
        optimizers: what steps their parameters.

    Raises:
        ArchitectureError: an optimiser has a parameter that is in no view, or a parameter is not in
            single precision.
        UnsupportedLayerError: a view has a layer that cannot learn.
    """

    def __init__(
        self,
        policy: nn.Module,
        views: Mapping[str, nn.Module],
        optimizers: Iterable[torch.optim.Optimizer],
    ) -> None:
        for view in views.values():
            node_layers(view)
        self.views = views
        self.policy = policy
        self.names = {id(p): name for name, p in policy.named_parameters()}
        self.learned = [
            p for o in optimizers for g in o.param_groups for p in g["params"] if p.requires_grad
        ]
        own = {id(p) for view in views.values() for p in view.parameters()}
        if lost := self._named(p for p in self.learned if id(p) not in own):
            raise ArchitectureError(
                f"the optimiser has parameters ({lost}) that are in none of the networks that "
                f"learn ({', '.join(views)}), so they would never move: node perturbation trains "
                "features extractor, hidden layers and heads as stable-baselines3 wires them. "
                "Freeze them (requires_grad_(False)), or use rule='bp'"
            )
        if wrong := self._named(p for p in self.learned if p.dtype != torch.float32):
            kind = next(p.dtype for p in self.learned if p.dtype != torch.float32)
            raise ArchitectureError(
                f"the policy has parameters of type {kind} ({wrong}); stable-baselines3 feeds it "
                "float32, so call policy.float()"
            )

    def compare(
        self,
        inputs: Mapping[str, Tree],
        ours: Callable[[], Mapping[str, Tensor]],
        theirs: Callable[[], Mapping[str, Tensor]],
    ) -> None:
        """Run both sides on a batch.

        Args:
            inputs: the inputs of every view.
            ours: what the views say, tensors by name.
            theirs: what the policy says, by the same names.

        Raises:
            ArchitectureError: they differ, or the policy depends on a parameter by another way than
                through the layers of the views.
        """
        if on_chip(self.policy):
            return  # no two passes agree
        with torch.enable_grad():
            expected = theirs()
        with torch.no_grad():
            given = ours()
        for name, value in expected.items():
            mine, value = given[name].flatten(), value.detach().flatten()
            if not torch.allclose(mine, value, TOLERANCE, TOLERANCE, equal_nan=True):
                raise ArchitectureError(
                    f"{type(self.policy).__name__} computes another {name} than the networks that "
                    f"learn: they differ by up to {float((mine - value).abs().max()):.3g}. Node "
                    "perturbation runs features extractor, hidden layers and heads as "
                    "stable-baselines3 wires them, and what a policy does beside (an overridden "
                    "forward, random numbers, extra layers) would not learn; move it into one "
                    "of those modules, or use rule='bp'"
                )
        ran: set[int] = set()
        with torch.no_grad():
            for name, view in self.views.items():
                calls = Activity(view, inputs[name]).calls
                ran |= {id(p) for call in calls for p in call.layer.module.parameters()}
        used = _parameters_behind(expected.values())
        with torch.no_grad():
            theirs()  # the policy keeps its last distribution; with a graph it could not be copied
        if lost := self._named(p for p in self.learned if id(p) in used and id(p) not in ran):
            raise ArchitectureError(
                f"{type(self.policy).__name__} uses the parameters {lost} without running their "
                "layer (as in F.linear(x, layer.weight)), so its nodes cannot be perturbed; call "
                "the layer, or use rule='bp'"
            )

    def separate_samples(self, inputs: Mapping[str, Tree]) -> None:
        """Refuse views in which the samples of a batch change each other.

        Raises:
            ArchitectureError: they do.
        """
        if on_chip(self.policy):
            return
        for name, view in self.views.items():
            with torch.no_grad():
                together = tensors(view(inputs[name]))
                alone = tensors(view(tree_map(lambda x: x[:1], inputs[name])))
            for some, one in zip(together, alone, strict=True):
                if not torch.allclose(some[:1], one, 1e-3, 1e-3, equal_nan=True):
                    raise ArchitectureError(
                        f"the {name} gives a sample another output in a batch than by itself, so "
                        "the noise of one sample would reach the losses of others; take out what "
                        "normalises or averages over the batch"
                    )

    def _named(self, parameters: Iterable[Tensor]) -> str:
        """Names of parameters, the first few."""
        names = [self.names.get(id(p), f"one of shape {tuple(p.shape)}") for p in parameters]
        return ", ".join(names[:5]) + ", …" * (len(names) > 5)


def sample(space: spaces.Space[Any], count: int, device: torch.device) -> Any:  # noqa: ANN401
    """Some elements of a space as tensors, as rollouts hold them; no generator is touched."""
    own = copy.deepcopy(space)
    own.seed(0)
    elements = [own.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        stacked: Any = {key: _stack([e[key] for e in elements]) for key in space.spaces}
    else:
        stacked = _stack(elements)
    return obs_as_tensor(stacked, device)


def _stack(elements: Sequence[Any]) -> np.ndarray[Any, Any]:
    values = np.stack(elements)
    # Bounds of a box may be the largest numbers there are.
    return values.clip(-10.0, 10.0) if values.dtype.kind == "f" else values


def _parameters_behind(outputs: Iterable[Tensor]) -> set[int]:
    """Which parameters tensors depend on, read from autograd's graph; nothing runs backwards."""
    nodes: list[Any] = [y.grad_fn for y in outputs]
    seen: set[Any] = set()
    found: set[int] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            found.add(id(variable))
        nodes.extend(following for following, _ in node.next_functions)
    return found
