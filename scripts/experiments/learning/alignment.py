"""How close each rule's estimate comes to the gradient, for how many forward passes.

On real batches of three kinds: PPO's actor and critic on Reacher-v5 after 40k steps of learning,
and inverse dynamics of the seven-joint arm after two epochs. All rules look at the same network
state: the plain rules at the folded network, the decorrelated ones at the network with its R. Rules
with learned feedback first learn their feedback matrices on batches of the same kind while the
weights stay: 20 of them for layerwise feedback, 400 for direct. Passes: of the network, for one
sample and one step, the clean one included; evaluations of the loss alone are not counted.

"NP, σ by layer" is a best case: it allots the noise to the layers by their true gradients, which no
rule could know, so that the variance of the whole gradient is smallest.

And how true NP with feedback stays to the gradient while PPO learns, layer by layer: in every 301st
minibatch the estimate is compared with backpropagation's gradient of the same loss, for show;
learning does not see it. The slope of the estimate over the gradient is 1 if the estimate is
unbiased, the cosine 1 if it has no noise either.

    python -m scripts.experiments.learning.alignment run  # results/alignment/rows.csv, minutes
    python -m scripts.experiments.learning.alignment training  # training.csv, 3 minutes a K
    python -m scripts.experiments.learning.alignment report  # figure, and table in docs/variance.md
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn
from typing_extensions import override

import nprobot
from nprobot.algorithms.losses import ClippedSurrogate, SquaredValueError
from nprobot.catalogue import RuleTraits
from nprobot.envs import datasets
from nprobot.learning import Activity, LearningRule, Loss
from nprobot.learning.rules import NodePerturbation
from nprobot.runs.versions import versions

from ..pages import DOCS, markdown, panels, put_section, save_figure
from ..rows import RESULTS, Only, Rows, append, column, command, keep, read, select

ROWS = RESULTS / "alignment" / "rows.csv"
TRAINING = RESULTS / "alignment" / "training.csv"
KINDS = ("PPO actor (Reacher-v5)", "PPO critic (Reacher-v5)", "inverse dynamics (arm)")
DRAWS = (1, 2, 4, 8, 16, 32, 64)
BATCH = 256
BATCHES = 5
SEED = 0

TASK, STEPS, ENVS = "InvertedDoublePendulum-v5", 300_000, 8
TRAINING_DRAWS = (1, 8)
EVERY = 301
"""A prime to minibatches of an epoch, so that it does not meet the same ones."""
LAYERS = {"body.0": "first", "body.2": "second", "head": "output"}


@dataclass(frozen=True)
class Option:
    """One line of the figure: a rule, its settings, and how it is drawn."""

    rule: str
    settings: dict[str, Any]
    colour: str
    line: str = "-"
    feedback_steps: int = 0
    """Batches that feedback learns from, while the weights stay, before anything is measured."""


BY_LAYER = "NP, σ by layer"
NOISE: dict[str, Any] = {"sigma": 1e-2, "noise": "rademacher"}
LESS = NOISE | {"sigma": 1e-3}
DANP = NOISE | {"samples": 8, "decorrelation_lr": 1e-3}
"""What the networks have learned by."""
OPTIONS: dict[str, Option] = {
    "NP": Option("np", NOISE, "#9ecae1"),
    "NP, orthogonal": Option("np", NOISE | {"noise": "orthogonal"}, "#9ecae1", ":"),
    "NP, antithetic": Option("np", NOISE | {"antithetic": True}, "#9ecae1", "--"),
    BY_LAYER: Option("np", NOISE, "#9ecae1", "-."),
    "INP": Option("inp", NOISE, "#4292c6"),
    "ANP": Option("anp", NOISE, "#084594"),
    "DNP": Option("dnp", NOISE, "#fdae6b"),
    "DINP": Option("dinp", NOISE, "#f16913"),
    "DANP": Option("danp", NOISE, "#a63603"),
    "DNP + direct feedback": Option(
        "dnp+feedback", NOISE | {"feedback": "direct"}, "#9e9ac8", "--", feedback_steps=400
    ),
    "DNP + feedback": Option("dnp+feedback", LESS, "#54278f", feedback_steps=20),
    "DINP + feedback": Option("dinp+feedback", LESS, "#54278f", "--", feedback_steps=20),
}

Batch = tuple[Any, Callable[[Any], Tensor]]
"""Inputs and loss, as `LearningRule.backward` takes them."""


class Kind:
    """One kind of batch.

    Args:
        network: decorrelated, in mid-training.
        batch: makes batches for it.

    Attributes:
        plain: the network with R folded into its weights.
        strength: of the noise of its nodes, see `best_strength`.
    """

    def __init__(self, network: nn.Module, batch: Callable[[], Batch]) -> None:
        self.network, self.batch = network, batch
        self.plain = nprobot.policies.fold(network)
        self.strength = best_strength(self.plain, batch())


class ByLayer(NodePerturbation):
    """NP with noise of a different strength in each layer.

    Args:
        strength: s of every node, shape (N,); its noise has the standard deviation s σ.
        settings: of NP.
    """

    def __init__(self, strength: Tensor, **settings: Any) -> None:
        super().__init__(**settings)
        self.strength = strength

    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Any], Tensor]
    ) -> Tensor:
        """NP's, of the scaled noise."""
        own = super().node_error(activity, noise * self.strength, delta_loss)
        return own / self.strength**2


def best_strength(network: nn.Module, batch: Batch) -> Tensor:
    """Strength of the noise of every node for which NP's total variance is smallest.

    The variance is Σ_l X_l N_l / s_l² · Σ_m s_m² G_m, with X_l and G_l the mean squared norms of a
    layer's input and node gradient; by Cauchy-Schwarz it is smallest at s_l⁴ = X_l N_l / G_l.
    """
    inputs, loss = batch
    with torch.enable_grad():
        activity = Activity(network, inputs)
        nodes = [call.pre_activation for call in activity.calls]
        gradients = torch.autograd.grad(loss(activity.outputs).sum(), nodes)
    parts = []
    for call, gradient in zip(activity.calls, gradients, strict=True):
        size = gradient[0].numel()
        inputs_square = float(len(gradient))  # of the constant 1 that the bias multiplies
        if isinstance(call.layer.module, nn.Linear):
            inputs_square += float(call.inputs.detach().square().sum())
        fourth = size * inputs_square / gradient.square().sum()
        parts.append(torch.full((size,), float(fourth) ** 0.25))
    strength = torch.cat(parts)
    return strength / strength.square().mean().sqrt()


@functools.cache
def kinds() -> dict[str, Kind]:
    """All kinds by name; learns what they need."""
    return dict(zip(KINDS, (*ppo_kinds(), regression_kind()), strict=True))


def ppo_kinds() -> tuple[Kind, Kind]:
    """Actor and critic of PPO on Reacher-v5, with minibatches of its next rollout."""
    env = VecNormalize(make_vec_env("Reacher-v5", 8, seed=SEED))
    model = nprobot.PPO(
        *("MlpPolicy", env, LinearSchedule(3e-3, 0.0, 1.0)),
        rule="danp",
        rule_kwargs=DANP,
        **{"n_steps": 256, "batch_size": 256, "max_grad_norm": float("inf")},
        seed=SEED,
        device="cpu",
    )
    model.learn(40_960)
    model.train = lambda: None  # collect one more rollout and learn nothing from it
    model.learn(2048, reset_num_timesteps=False)
    buffer = model.rollout_buffer

    def minibatch() -> Any:  # noqa: ANN401 - SB3's own sample type
        return next(iter(buffer.get(BATCH)))

    def actor_batch() -> Batch:
        data = minibatch()
        advantages = (data.advantages - data.advantages.mean()) / data.advantages.std()
        arguments = (data.actions, data.old_log_prob, advantages, 0.2, 0.0)
        return data.observations.float(), ClippedSurrogate(model.distribution, *arguments)

    def critic_batch() -> Batch:
        data = minibatch()
        return data.observations.float(), SquaredValueError(
            data.returns, data.old_values, None, 0.5
        )

    return Kind(model.actor, actor_batch), Kind(model.critic, critic_batch)


def regression_kind() -> Kind:
    """Inverse dynamics of the arm."""
    split = datasets.make("arm-inverse-dynamics").train
    x, y = (torch.as_tensor(part, dtype=torch.float32) for part in (split.inputs, split.targets))
    x, y = ((part - part.mean(0)) / part.std(0) for part in (x, y))
    torch.manual_seed(SEED)
    network = nprobot.policies.mlp([x.shape[1], 128, 128, y.shape[1]], decorrelated=True)

    def batch() -> Batch:
        rows = torch.randint(len(x), (BATCH,))
        target = y[rows]
        return x[rows], lambda out: (out - target).square().mean(-1)

    rule = nprobot.learning_rule("danp", **DANP, seed=SEED)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(2 * len(x) // BATCH):
        optimizer.zero_grad()
        rule.backward(network, *batch())
        optimizer.step()
        rule.decorrelate(network)
    return Kind(network, batch)


def run(only: Only = ()) -> None:
    """Measure the cosine of every rule at every K, on several batches of every kind."""
    keep(
        ROWS,
        [
            {"batch": kind, "rule": label, "samples": draws}
            for kind in KINDS
            for label, option in OPTIONS.items()
            for draws in DRAWS
            if draws > 1 or not option.settings.get("antithetic")
        ],
        measure,
        only=only,
    )


def measure(batch: str, rule: str, samples: int) -> dict[str, Any]:
    """Mean alignment on some batches, and the passes of a step."""
    kind, option = kinds()[batch], OPTIONS[rule]
    settings = {**option.settings, "samples": samples, "seed": 1}
    if rule == BY_LAYER:
        learner: LearningRule = ByLayer(kind.strength, **settings)
    else:
        learner = nprobot.learning_rule(option.rule, **settings)
    network = kind.network if learner.decorrelated else kind.plain
    torch.manual_seed(1)
    for _ in range(option.feedback_steps):
        learner.backward(network, *kind.batch())
    network.zero_grad()
    found = [nprobot.alignment(learner, network, *kind.batch()).total for _ in range(BATCHES)]
    before = learner.forward_passes
    learner.backward(network, *kind.batch())
    network.zero_grad()
    return {
        "passes": (learner.forward_passes - before) // BATCH,
        "cosine": statistics.fmean(one.cosine for one in found),
        "predicted": statistics.fmean(one.predicted_cosine for one in found),
        "norm_ratio": statistics.fmean(one.norm_ratio for one in found),
    }


def training() -> None:
    """Train by NP with feedback and compare it with the gradient, for every K without rows."""
    for samples in TRAINING_DRAWS:
        if select(read(TRAINING), samples=samples):
            continue
        rule = Compared(samples)
        env = VecNormalize(make_vec_env(TASK, ENVS, seed=0))
        model = nprobot.PPO(
            *("MlpPolicy", env, LinearSchedule(1e-3, 0.0, 1.0)),
            **{"rule": rule, "n_steps": 256, "batch_size": 64, "max_grad_norm": 0.5, "seed": 0},
        )
        model.learn(STEPS)
        append(TRAINING, [{**row, **versions()} for row in rule.found])


class Compared(LearningRule):
    """NP with feedback that compares itself with backpropagation now and then."""

    traits = RuleTraits("compared", "Compared", "NP + feedback beside backpropagation", "")

    def __init__(self, samples: int) -> None:
        super().__init__(decorrelated=False, seed=0)
        self.rule = nprobot.learning_rule("np+feedback", samples=samples, seed=0, **LESS)
        self.exact = nprobot.learning_rule("bp")
        self.calls = 0
        self.found: list[dict[str, object]] = []

    @override
    def backward(self, network: nn.Module, inputs: Any, loss: Loss, **kwargs: Any) -> Tensor:
        self.calls += 1
        if self.calls % EVERY:
            return self.rule.backward(network, inputs, loss, **kwargs)
        with torch.enable_grad():
            self.exact.backward(network, inputs, loss)
        weights = {n: p for n, p in network.named_parameters() if n.endswith("weight")}
        gradients = {name: p.grad.flatten() for name, p in weights.items() if p.grad is not None}
        for parameter in network.parameters():
            parameter.grad = None
        losses = self.rule.backward(network, inputs, loss, **kwargs)
        for name, gradient in gradients.items():
            estimate = weights[name].grad
            assert estimate is not None
            if not gradient.any():
                continue  # every sample is clipped
            along = float(estimate.flatten() @ gradient)
            self.found.append(
                {
                    "samples": self.rule.samples,
                    "call": self.calls,
                    "network": type(network).__name__.lower(),
                    "layer": LAYERS[name.removesuffix(".weight")],
                    "slope": f"{along / float(gradient @ gradient):.4f}",
                    "cosine": f"{along / float(estimate.norm() * gradient.norm()):.4f}",
                }
            )
        return losses


def report() -> None:
    """Draw cosines over forward passes, a panel for each kind of batch; write the table."""
    rows = read(ROWS)
    figure, axes = panels(len(KINDS), (14, 4.4), sharey=True)
    for axis, kind in zip(axes, KINDS, strict=True):
        for label, option in OPTIONS.items():
            own = select(rows, batch=kind, rule=label)
            style = {"color": option.colour, "linestyle": option.line, "marker": ".", "ms": 5}
            axis.plot(column(own, "passes"), column(own, "cosine"), label=label, **style)
        own = select(rows, batch=kind, rule="NP")
        theory = column(own, "passes"), column(own, "predicted")
        axis.plot(*theory, ":", color="grey", label="theory, NP")
        axis.set(title=kind, xscale="log", xlabel="forward passes a step", ylim=(0, 1.02))
    axes[0].set_ylabel("cosine to the backprop gradient")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.suptitle(f"Alignment with backpropagation, batches of {BATCH}", size=12)
    save_figure(figure, "alignment")
    put_section("estimate in training", table(read(TRAINING)), DOCS / "variance.md")


def table(rows: Rows) -> list[str]:
    """Medians and the 5th percentile of the cosine, over the whole run and over its last third."""
    last = 2 * max(int(row["call"]) for row in rows) / 3
    lines = []
    for network in ("actor", "critic"):
        for layer in LAYERS.values():
            for samples in TRAINING_DRAWS:
                own = select(rows, network=network, layer=layer, samples=samples)
                cells = [f"{network}, {layer} layer", str(samples)]
                for part in (own, [row for row in own if int(row["call"]) > last]):
                    slope = statistics.median(column(part, "slope"))
                    cosines = sorted(column(part, "cosine"))
                    low = cosines[len(cosines) // 20]
                    cells += [f"{slope:.2f}", f"{statistics.median(cosines):.3f} ({low:.2f})"]
                lines.append(cells)
    measured = ("cosine (5 %)", "last third of the run: slope", "cosine (5 %)")
    return markdown(("weights of", "K", "slope", *measured), lines)


if __name__ == "__main__":
    command(__doc__, run, training, report)
