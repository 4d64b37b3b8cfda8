"""What all learning rules share: settings, noise stream, decorrelation, counters, saved state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot.catalogue import Rule, RuleTraits
from nprobot.errors import NoiseInaccessibleError, NonFiniteError, RuleError
from nprobot.policies.chip.crossbar import on_chip
from nprobot.policies.layers import is_decorrelated_layer, patches

from .activity import Activity, Tree, first_tensor
from .decorrelation import decorrelated_layers, mean_square_correlation, update
from .noise import PerturbationStream
from .perceptrons import (
    ArrayLoss,
    ClosureLoss,
    KnownSlopes,
    NoShortForm,
    Perceptrons,
    find_chain,
)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Loss = Callable[[Tree], Tensor]
"""From a network's outputs (..., B, out) to one loss per sample (..., B)."""


class LearningRule(ABC):
    """What all rules share: their settings, the noise stream, decorrelation, counters, saved state.

    Args:
        decorrelated: whether `decorrelate` updates R; see `nprobot.learning_rule`.
        sigma: standard deviation σ of the node noise.
        samples: K, noisy passes averaged in one step.
        noise: ``"gaussian"``, ``"rademacher"`` or ``"orthogonal"``.
        seed: the seed of the noise stream; None draws one.
        antithetic: whether the draws come in pairs of opposite sign.
        decorrelation_lr: step size η_R of R.
        whitening: share κ of the update of R that also drives the variances to 1.
        decorrelation_interval: update R in every n-th call of `decorrelate`.
        keep_function: whether the weights follow R, so that outputs stay what they are.
        keep_scale: whether R keeps its norm.

    Attributes:
        forward_passes: network passes of one sample spent so far.
        backward_passes: the same for backpropagation.

    Raises:
        RuleError: a setting is out of range.
    """

    traits: ClassVar[RuleTraits]
    """What the catalogue knows of it; `catalogue.rule` sets it."""

    def __init__(
        self,
        *,
        decorrelated: bool = False,
        sigma: float = 1e-3,
        samples: int = 1,
        noise: str = "gaussian",
        seed: int | None = None,
        antithetic: bool = False,
        decorrelation_lr: float = 1e-3,
        whitening: float = 0.0,
        decorrelation_interval: int = 1,
        keep_function: bool = False,
        keep_scale: bool = False,
    ) -> None:
        _require(0.0 < sigma < float("inf"), "sigma", sigma, "a finite number above 0")
        _require(samples >= 1 and int(samples) == samples, "samples", samples, "an integer from 1")
        _require(
            not antithetic or samples % 2 == 0,
            "samples",
            samples,
            "even where the noise is antithetic, as draws come in pairs",
        )
        _require(0.0 <= decorrelation_lr < 1.0, "decorrelation_lr", decorrelation_lr, "in [0, 1)")
        _require(0.0 <= whitening <= 1.0, "whitening", whitening, "in [0, 1]")
        _require(
            decorrelation_interval >= 1 and int(decorrelation_interval) == decorrelation_interval,
            "decorrelation_interval",
            decorrelation_interval,
            "an integer from 1",
        )
        self.decorrelated = decorrelated
        self.sigma = float(sigma)
        self.samples = int(samples)
        self.source = PerturbationStream(noise, seed, antithetic=antithetic)
        self.decorrelation_lr = float(decorrelation_lr)
        self.whitening = float(whitening)
        self.decorrelation_interval = int(decorrelation_interval)
        self.keep_function = bool(keep_function)
        self.keep_scale = bool(keep_scale)
        self.forward_passes = 0
        self.backward_passes = 0
        self._decorrelate_calls: dict[int, int] = {}
        self._forget_networks()

    @property
    def name(self) -> str:
        """The name that `nprobot.learning_rule` knows it by, such as ``"dnp+feedback"``."""
        return f"{'d' * self.decorrelated}{self.traits.name}"

    @property
    def entry(self) -> Rule:
        """The rule in the catalogue."""
        return Rule(self.name, self.traits, self.decorrelated)

    @property
    def noise(self) -> str:
        """Distribution of the node noise."""
        return self.source.distribution

    @abstractmethod
    def backward(
        self,
        network: nn.Module,
        inputs: Tree,
        loss: Loss,
        *,
        perturbations: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Estimate the gradient of the mean loss and add it to the parameters' `.grad`.

        Args:
            network: any module whose parameters live in layers of known kinds; see
                docs/networks.md.
            inputs: a batch, tensor (B, ...) or a tuple or dict of such.
            loss: maps the network's outputs, tensors (..., B, out), to one loss per sample and per
                leading direction axis, (..., B).
            perturbations: explicit ones instead of drawn ones, one tensor (K, B, units) for each
                perturbed layer in forward order; to replay a step.

        Returns:
            The clean loss of every sample, shape (B,), without gradient.

        Raises:
            UnsupportedLayerError: a parameter lives in another kind of module.
            RuleError: the loss is not one number per sample.
            NonFiniteError: a loss is NaN or infinite.
            RuleError: `noise` does not fit.
            NoiseInaccessibleError: the network's noise is hidden, and the rule has to know it.
        """

    @torch.no_grad()
    def decorrelate(self, network: nn.Module, *, scale: float = 1.0) -> None:
        """Update R of every decorrelated layer from the inputs of the last `backward` call.

        ``R ← R − η_R [(1 − κ) C R + κ diag(v) R]`` with C the mean of ``x* x*ᵀ`` over the batch,
        its diagonal set to zero, and v the mean of ``x*² − 1``. With `keep_function` the weights
        follow, so that the outputs stay the same to rounding. Does nothing for a plain rule.

        Args:
            network: as given to `backward`.
            scale: factor on η_R. Let it fall with the learning rate: without `keep_function`, an R
                that moves on under weights at rest undoes what they have learned.

        Raises:
            RuleError: the network has no decorrelated layer, or `backward` has not seen it yet.
        """
        if not self.decorrelated:
            return
        layers = decorrelated_layers(network)
        if self._count_call(network) % self.decorrelation_interval:
            return
        for name, layer in layers:
            if (x := self._layer_inputs.get(layer)) is None:
                raise RuleError(
                    f"decorrelate() needs the inputs of layer {name!r}: call backward() on this "
                    "network first"
                )
            update(
                layer.R,
                x,
                scale * self.decorrelation_lr,
                self.whitening,
                weight=layer.weight if self.keep_function else None,
                keep_scale=self.keep_scale,
            )

    def decorrelation_loss(self, network: nn.Module) -> float:
        """Mean squared correlation between a layer's decorrelated inputs, averaged over layers.

        0 means uncorrelated inputs, 1 means that all inputs are copies of each other. From the
        inputs of the last `backward` call; NaN before it.
        """
        seen = [
            # A plain convolution notes its images.
            patches(m, x) if isinstance(m, CONVOLUTIONS) and x.dim() == m.weight.dim() else x
            for m in network.modules()
            if (x := self._layer_inputs.get(m)) is not None
        ]
        return sum(map(mean_square_correlation, seen)) / len(seen) if seen else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Counters and the place in the noise stream; settings are not part of it."""
        return {
            "forward_passes": self.forward_passes,
            "backward_passes": self.backward_passes,
            "decorrelate_calls": dict(self._decorrelate_calls),
            "noise": self.source.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.forward_passes = int(state["forward_passes"])
        self.backward_passes = int(state["backward_passes"])
        self._decorrelate_calls = {
            int(index): int(calls) for index, calls in state["decorrelate_calls"].items()
        }
        self.source.load_state_dict(state["noise"])

    def __getstate__(self) -> dict[str, Any]:
        """What copies and SB3's `save` keep: everything but what was seen of networks."""
        weak = ("_network_index", "_layer_inputs", "_short_forms")
        return {name: value for name, value in vars(self).items() if name not in weak}

    def __setstate__(self, state: dict[str, Any]) -> None:
        earlier = {"keep_function": False, "keep_scale": False}  # versions that had neither
        vars(self).update(earlier | state)
        self._forget_networks()

    def __repr__(self) -> str:
        settings = (
            f"sigma={self.sigma:g}, samples={self.samples}, noise={self.source.distribution!r}"
        )
        if self.source.antithetic:
            settings += ", antithetic=True"
        if self.decorrelated:
            settings += f", decorrelation_lr={self.decorrelation_lr:g}"
            for name in ("keep_function", "keep_scale"):
                settings += f", {name}=True" if getattr(self, name) else ""
        return f"{type(self).__name__}({self.name!r}, {settings})"

    def forget(self) -> None:
        """Forget all that is kept of networks, as where others take their places."""
        self._forget_networks()
        self._decorrelate_calls = {}

    def _forget_networks(self) -> None:
        self._network_index: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
        self._layer_inputs: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()
        self._short_forms: WeakKeyDictionary[nn.Module, Perceptrons | str] = WeakKeyDictionary()

    def _index(self, network: nn.Module) -> int:
        """Number of a network, in the order in which this rule met them.

        Saved state is kept by this number: the order, unlike the networks, is the same in a resumed
        run.
        """
        return self._network_index.setdefault(network, len(self._network_index))

    def _count_call(self, network: nn.Module) -> int:
        """How often `decorrelate` was called for this network before."""
        index = self._index(network)
        calls = self._decorrelate_calls.get(index, 0)
        self._decorrelate_calls[index] = calls + 1
        return calls

    def plain_outputs(self, network: nn.Module, inputs: Tree) -> Tree:
        """Outputs of a pass without noise; what `decorrelate` asks for is noted."""
        if not self.decorrelated:
            outputs: Tree = network(inputs)
            return outputs
        activity = Activity(network, inputs)
        self.remember_inputs(activity.layer_inputs())
        return activity.outputs

    def remember_inputs(self, layers: Iterable[tuple[nn.Module, Tensor]]) -> None:
        """Note what layers were fed, for `decorrelate`; `backward` does so by itself."""
        seen: dict[nn.Module, Tensor] = {}
        for layer, x in layers:
            if not isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
                continue
            x = x.detach() if x.requires_grad else x
            if layer in seen and is_decorrelated_layer(layer):  # it runs several times
                x = torch.cat([y.reshape(-1, y.shape[-1]) for y in (seen[layer], x)])
            seen[layer] = x
        self._layer_inputs.update(seen)

    def remembered_inputs(self, network: nn.Module) -> dict[str, Tensor]:
        """What the layers of a network were fed at last, by their names."""
        modules = network.named_modules()
        return {name: self._layer_inputs[m] for name, m in modules if m in self._layer_inputs}


class PerturbationRule(LearningRule):
    """A rule that needs forward passes only; autograd is off while it runs."""

    frozen_nodes: ClassVar[bool] = False
    """Whether layers that are frozen are perturbed, too."""
    short_form: ClassVar[str] = ""
    """The step in `perceptrons` by which this very class learns; empty for none."""
    use_short_form: bool = True
    """Set it to False to have perceptrons, too, take the general path."""

    @override
    @torch.no_grad()
    def backward(
        self,
        network: nn.Module,
        inputs: Tree,
        loss: Loss,
        *,
        perturbations: Sequence[Tensor] | None = None,
    ) -> Tensor:
        if isinstance(short := self.short_form_of(network), Perceptrons):
            noise = None
            if perturbations is not None:
                noise = Activity(network, inputs, frozen=self.frozen_nodes).join(perturbations)
            values: ArrayLoss = ClosureLoss(
                partial(per_sample, loss), self.sigma, single=short.single[0]
            )
            if isinstance(loss, KnownSlopes):
                values = partial(loss.on_arrays, step=self.sigma)
            return short.backward(inputs, values, noise)
        if on_chip(network):
            if perturbations is not None:
                raise NoiseInaccessibleError(
                    "the network is on a chip whose noise is its own: none can be put in its place"
                )
            if self.decorrelated and not all(
                getattr(m, "readable", True) for m in network.modules()
            ):
                raise NoiseInaccessibleError(
                    f"{self.name!r} decorrelates the inputs of every layer, and some of this chip "
                    f"cannot be read; {self.name[1:]!r} needs them not"
                )
            return self.learn_from_hidden_noise(network, inputs, loss)
        activity = Activity(network, inputs, frozen=self.frozen_nodes, draws=self.samples)
        clean_loss = per_sample(loss, activity.outputs, (activity.batch,))
        if perturbations is None:
            shape = (self.samples, activity.batch, activity.size)
            noise = self.source.draw(shape, activity.like, self.sigma)
        else:
            noise = activity.join(perturbations)
        samples = noise.shape[0]

        def delta_loss(outputs: Tree) -> Tensor:
            """``δL = L(noisy) − L(clean)``, shape (K, B)."""
            draws = first_tensor(outputs).shape[0]
            return per_sample(loss, outputs, (draws, activity.batch)) - clean_loss

        activity.accumulate(self.node_error(activity, noise, delta_loss))
        self.remember_inputs(activity.layer_inputs())
        self.forward_passes += activity.batch * (1 + samples * self.noisy_passes(activity))
        return clean_loss

    def short_form_of(self, network: nn.Module) -> Perceptrons | str:
        """What stands in for the general path in numpy; or why nothing does, in words."""
        if not self.use_short_form:
            return "it is switched off"
        found = self._short_forms.get(network)
        if found is None or (isinstance(found, Perceptrons) and not found.unchanged()):
            try:
                found = Perceptrons(self, [network], [find_chain(network)])
            except NoShortForm as reason:
                found = str(reason)
            self._short_forms[network] = found
        return found

    def learn_from_hidden_noise(self, network: nn.Module, inputs: Tree, loss: Loss) -> Tensor:
        """What `backward` does for a network that is noisy by itself; the same results.

        Raises:
            NoiseInaccessibleError: the rule has to know the noise.
        """
        self.entry.check_on_chip()
        raise NotImplementedError

    def noisy_passes(self, activity: Activity) -> int:
        """Noisy passes that one draw of the noise takes."""
        return 1

    @abstractmethod
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        """Estimate of dL/da for each node and sample, L being the mean loss of the batch.

        Args:
            activity: the activity of the clean pass, ready for noisy ones.
            noise: ε of every node, shape (K, B, N); may be overwritten.
            delta_loss: from the outputs of a noisy pass to δL, shape (K, B).

        Returns:
            Node errors averaged over the K draws and divided by B, shape (B, N).
        """


def per_sample(loss: Loss, outputs: Tree, shape: tuple[int, ...]) -> Tensor:
    """Evaluate a loss and check that it is one finite number per sample.

    Raises:
        RuleError: the loss has another shape.
        NonFiniteError: a loss is NaN or infinite.
    """
    losses = loss(outputs)
    if not isinstance(losses, Tensor) or losses.shape != shape:
        given = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise RuleError(
            f"loss must return one number per sample, shape {shape} (draws x samples) for outputs "
            f"with these leading axes; got {given}. A loss averaged over the batch mixes the noise "
            "of all samples and tells a node nothing: drop the mean over the batch, and reduce "
            "over the last axis only, for example ((y - target) ** 2).mean(-1)."
        )
    if losses.is_cuda and torch.cuda.is_current_stream_capturing():
        return losses  # nothing can be fetched; who replays the step looks at what it returns
    # A finite sum is enough, one number to fetch; only if it is not, look at each.
    if not math.isfinite(losses.sum().item()) and not torch.isfinite(losses).all():
        bad = (~torch.isfinite(losses)).nonzero()[0].tolist()
        raise NonFiniteError(
            f"loss of sample {bad[-1]} is {losses[tuple(bad)].item()}"
            f" ({int((~torch.isfinite(losses)).sum())} of {losses.numel()} are not finite); "
            "look for too high a learning rate, or for bad values in the inputs or targets"
        )
    return losses


def _require(met: bool, name: str, value: object, allowed: str) -> None:
    if not met:
        raise RuleError(f"{name} must be {allowed}, got {value!r}")
