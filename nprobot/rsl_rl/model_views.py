"""The networks inside rsl_rl's models, as learning rules take them, and what a sample is for each.

A model of rsl_rl runs a normaliser, perhaps a recurrent layer or convolutions, a perceptron, and a
distribution with parameters of its own. A view is the part of it that has weights: from inputs with
the batch as their first axis to what the perceptron says, and to the distribution's parameters, one
of each for every sample.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rsl_rl.models import MLPModel, RNNModel
from rsl_rl.modules import MLP
from rsl_rl.utils import unpad_trajectories
from torch import Tensor, nn
from typing_extensions import override

from nprobot.errors import ArchitectureError, UnsupportedLayerError
from nprobot.learning.activity import Tree
from nprobot.policies.layers import BiasHead

Observations = Any
"""A `TensorDict` of rsl_rl: groups of observations, by name."""


class ModelView(nn.Module):
    """A model whose samples are single time steps.

    It shares its modules with the model: training one trains the other.

    Args:
        model: an `MLPModel`, or a subclass that adds to its `get_latent`.

    Attributes:
        model: the same.
        heads: parameters of its distribution that are learned, as nodes.

    Raises:
        ArchitectureError: its forward pass is its own.
        UnsupportedLayerError: its distribution has parameters that are not one for each action.
    """

    def __init__(self, model: MLPModel) -> None:
        super().__init__()
        kind = type(model)
        if not isinstance(model, MLPModel) or kind.forward is not MLPModel.forward:
            raise ArchitectureError(
                f"{kind.__name__} has a forward pass of its own; learning without backpropagation "
                "needs rsl_rl's models, or subclasses that add to get_latent()"
            )
        self.model = model
        self.distribution: Any = model.distribution
        own = [] if self.distribution is None else list(self.distribution.named_parameters())
        learned = {name: parameter for name, parameter in own if parameter.requires_grad}
        for name, parameter in learned.items():
            if "." in name or parameter.dim() != 1:
                raise UnsupportedLayerError(
                    f"parameter {name!r} of {type(self.distribution).__name__} has shape "
                    f"{tuple(parameter.shape)}; a distribution can learn vectors, with a number "
                    "for each action, and what depends on the state belongs in the network"
                )
        self.names = list(learned)
        self.heads = nn.ModuleList(map(BiasHead, learned.values()))
        # Nothing before the perceptron has weights: it is computed once for all passes.
        self.flat = kind.get_latent is MLPModel.get_latent

    def inputs(self, observations: Observations, masks: Tensor | None, hidden: Any) -> Tree:  # noqa: ANN401
        """Of a minibatch of rsl_rl, for `forward`: the batch first."""
        del hidden
        if masks is not None:
            observations = unpad_trajectories(observations, masks).flatten(0, 1)
        if self.flat:
            return self.model.get_latent(observations)
        return {name: observations[name] for name in _groups(self.model)}

    @override
    def forward(self, inputs: Tree) -> Tree:
        """What the perceptron says, (B, …), and the distribution's parameters, (B, n) each."""
        latent = inputs if self.flat else self.model.get_latent(inputs)
        return self.outputs(latent)

    def outputs(self, latent: Tensor) -> Tree:
        """The same from what the perceptron is fed."""
        raw: Tensor = self.model.mlp(latent)
        if self.distribution is None:
            return raw
        return (raw, *(head(latent) for head in self.heads))

    def chain(self) -> tuple[list[nn.Module], list[nn.Module], bool] | None:
        """The layers, where they form a plain chain; see `nprobot.learning.perceptrons`."""
        mlp = self.model.mlp
        if not self.flat or type(mlp) is not MLP or not isinstance(mlp[-1], nn.Linear):
            return None
        if self.distribution is None:
            return list(mlp), [], True
        return list(mlp)[:-1], [mlp[-1], *self.heads], False

    @contextmanager
    def distributed(self, outputs: Tree) -> Iterator[Any]:
        """The distribution of actions for outputs with any leading axes, and as it was after."""
        raw, *parameters = outputs
        own = vars(self.distribution)  # comes before what `nn.Module` keeps as parameters
        own.update(zip(self.names, map(self.for_steps, parameters), strict=True))
        try:
            self.distribution.update(raw)
            yield self.distribution
        finally:
            for name in self.names:
                del own[name]

    def for_steps(self, parameter: Tensor) -> Tensor:
        """A parameter of the distribution, one for each sample (…, B, n), for each time step."""
        return parameter


class RecurrentView(ModelView):
    """A model whose samples are trajectories, of as many steps as the longest of them.

    Raises:
        ArchitectureError: what it adds to `RNNModel` is not known.
    """

    def __init__(self, model: MLPModel) -> None:
        super().__init__(model)
        if type(model).get_latent is not RNNModel.get_latent:
            raise ArchitectureError(
                f"{type(model).__name__} is recurrent, with a get_latent() of its own; learning "
                "without backpropagation needs rsl_rl's RNNModel"
            )
        self.flat = False
        # The same weights, with the batch first: rules look for the samples there.
        self.recurrent = copy.copy(model.rnn.rnn)
        self.recurrent.batch_first = True

    @override
    def inputs(self, observations: Observations, masks: Tensor | None, hidden: Any) -> Tree:
        x = MLPModel.get_latent(self.model, observations).transpose(0, 1)
        states = hidden if isinstance(hidden, tuple) else (hidden,)
        return (x, *(state.transpose(0, 1) for state in states if state is not None))

    @override
    def forward(self, inputs: Tree) -> Tree:
        x, *states = inputs
        first = [state.transpose(0, 1).contiguous() for state in states]
        latent, _ = self.recurrent(x, tuple(first) if len(first) > 1 else (*first, None)[0])
        return self.outputs(latent)

    @override
    def for_steps(self, parameter: Tensor) -> Tensor:
        return parameter.unsqueeze(-2)


class BothViews(nn.Module):
    """Actor and critic with weights in common: one network, which learns from both losses."""

    def __init__(self, actor: ModelView, critic: ModelView) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic

    @override
    def forward(self, inputs: Tree) -> Tree:
        """The actor's outputs, and after them the values."""
        of_actor, of_critic = inputs
        return (*self.actor(of_actor), self.critic(of_critic))


def view_of(model: MLPModel) -> ModelView:
    """The view that fits a model."""
    return RecurrentView(model) if model.is_recurrent else ModelView(model)


@torch.no_grad()
def check_view(view: ModelView, observations: Observations) -> None:
    """See that a view says what its model does.

    Args:
        view: of a model.
        observations: of some environments; the numbers in them are not used.

    Raises:
        ArchitectureError: it does not.
    """
    model = view.model
    some, generator = observations.clone(), torch.Generator().manual_seed(0)
    for name, values in some.items():
        some[name] = torch.rand(values.shape, generator=generator).to(values)
    before, training = model.get_hidden_state(), model.training
    model.eval()
    model.reset()
    theirs = model(some)
    model.reset(hidden_state=before)
    if isinstance(view, RecurrentView):
        some = some.unsqueeze(0)
    ours = view(view.inputs(some, None, None))
    model.train(training)
    if view.distribution is not None:
        ours = view.distribution.deterministic_output(ours[0])
    if not torch.allclose(ours.reshape(theirs.shape), theirs, 1e-3, 1e-4):
        raise ArchitectureError(
            f"{type(model).__name__} computes something else than its get_latent() and its mlp "
            "one after the other, so its nodes cannot be perturbed"
        )


class StepRows:
    """Which sample a time step of a minibatch belongs to: a sample is one step.

    Args:
        masks: (T, trajectories) of a recurrent minibatch; None where steps lie in one axis.
    """

    def __init__(self, masks: Tensor | None) -> None:
        self.masks = masks

    def arranged(self, field: Tensor) -> Tensor:
        """A field of the minibatch, (B, …) or (T, environments, …), with samples first."""
        return field if self.masks is None else field.flatten(0, 1)

    def losses(self, of_steps: Tensor) -> Tensor:
        """One a sample, with the mean over samples that of the steps, from losses (…, B)."""
        return of_steps

    def mean(self, of_steps: Tensor) -> Tensor:
        """Over all steps."""
        return of_steps.mean()


class TrajectoryRows(StepRows):
    """The same where a sample is a trajectory, padded to the length of the longest."""

    masks: Tensor

    @override
    def arranged(self, field: Tensor) -> Tensor:
        rows = field.transpose(0, 1).flatten(0, 1)
        padded = rows.new_zeros(*self.masks.mT.shape, *rows.shape[1:])
        padded[self.masks.mT] = rows
        return padded

    @override
    def losses(self, of_steps: Tensor) -> Tensor:
        valid = self.masks.mT
        weight = valid.shape[0] / valid.sum()
        return torch.where(valid, of_steps, 0.0).sum(-1) * weight

    @override
    def mean(self, of_steps: Tensor) -> Tensor:
        return of_steps[self.masks.mT].mean()


def _groups(model: Any) -> list[str]:  # noqa: ANN401 - untyped package
    return [*model.obs_groups, *getattr(model, "obs_groups_2d", ())]
