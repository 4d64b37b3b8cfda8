"""How close each rule's estimate comes to the gradient, for how many forward passes.

On real batches of three kinds: PPO's actor and critic on Reacher-v5 after 40k steps of learning,
and inverse dynamics of the seven-joint arm after two epochs. All rules look at the same network
state: the plain rules at the folded network, the decorrelated ones at the network with its R. Rules
with learned feedback first learn their feedback matrices on batches of the same kind while the
weights stay: 20 of them for layerwise feedback, 400 for direct. Passes: of the network, for one
sample and one step, the clean one included; evaluations of the loss alone are not counted.

"NP, σ by layer" is a best case: it allots the noise to the layers by their true gradients, which no
rule could know, so that the variance of the whole gradient is smallest.

    python scripts/alignment.py            # measure (minutes), then draw
    python scripts/alignment.py --draw     # draw again from the raw rows
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

import nprobot
from nprobot.algorithms.losses import ClippedSurrogate, SquaredValueError
from nprobot.envs import datasets
from nprobot.learning.activity import Activity
from nprobot.learning.rules import NodePerturbation

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "results" / "alignment" / "rows.csv"
FIGURE = ROOT / "docs" / "figures" / "alignment.png"
DRAWS = (1, 2, 4, 8, 16, 32, 64)
BATCH = 256
BATCHES = 5
FEEDBACK_STEPS = {True: 20, "direct": 400}
SIGMA = {True: 1e-3, "direct": 1e-2, False: 1e-2}
SEED = 0


@dataclass(frozen=True)
class Option:
    """One line of the figure: a rule, its settings, and how it is drawn."""

    rule: str
    settings: dict[str, Any]
    colour: str
    line: str = "-"


BY_LAYER = "NP, σ by layer"
OPTIONS: dict[str, Option] = {
    "NP": Option("np", {}, "#9ecae1"),
    "NP, orthogonal": Option("np", {"noise": "orthogonal"}, "#9ecae1", ":"),
    "NP, antithetic": Option("np", {"antithetic": True}, "#9ecae1", "--"),
    BY_LAYER: Option("np", {}, "#9ecae1", "-."),
    "INP": Option("inp", {}, "#4292c6"),
    "ANP": Option("anp", {}, "#084594"),
    "DNP": Option("dnp", {}, "#fdae6b"),
    "DINP": Option("dinp", {}, "#f16913"),
    "DANP": Option("danp", {}, "#a63603"),
    "DNP + direct feedback": Option("dnp", {"feedback": "direct"}, "#9e9ac8", "--"),
    "DNP + feedback": Option("dnp", {"feedback": True}, "#54278f"),
    "DINP + feedback": Option("dinp", {"feedback": True}, "#54278f", "--"),
}

Batch = tuple[Any, Callable[[Any], Tensor]]
"""Inputs and loss, as `LearningRule.backward` takes them."""


@dataclass
class Kind:
    """One kind of batch: a decorrelated network in mid-training, and batches for it."""

    name: str
    network: nn.Module
    batch: Callable[[], Batch]


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


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draw", action="store_true", help="only draw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.draw:
        measure()
    draw()


def ppo_kinds() -> list[Kind]:
    """Actor and critic of PPO on Reacher-v5, with minibatches of its next rollout."""
    env = VecNormalize(make_vec_env("Reacher-v5", 8, seed=SEED))
    arguments = {"rule": "danp", "rule_kwargs": {"decorrelation_lr": 1e-3}, "n_steps": 256}
    model = nprobot.PPO("MlpPolicy", env, seed=SEED, device="cpu", **arguments)
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

    return [
        Kind("PPO actor (Reacher-v5)", model.actor, actor_batch),
        Kind("PPO critic (Reacher-v5)", model.critic, critic_batch),
    ]


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

    rule = nprobot.learning_rule("danp", sigma=1e-2, samples=8, noise="rademacher", seed=SEED)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(2 * len(x) // BATCH):
        optimizer.zero_grad()
        rule.backward(network, *batch())
        optimizer.step()
        rule.decorrelate(network)
    return Kind("inverse dynamics (arm)", network, batch)


def measure() -> None:
    """Cosine of every rule at every K, on several batches of every kind."""
    rows = []
    for kind in [*ppo_kinds(), regression_kind()]:
        plain = nprobot.policies.fold(kind.network)
        strength = best_strength(plain, kind.batch())
        for label, option in OPTIONS.items():
            network = kind.network if option.rule.startswith("d") else plain
            feedback = option.settings.get("feedback", False)
            for draws in DRAWS:
                if option.settings.get("antithetic") and draws == 1:
                    continue
                settings = {"noise": "rademacher", "sigma": SIGMA[feedback]} | option.settings
                settings |= {"samples": draws, "seed": 1}
                if label == BY_LAYER:
                    rule: nprobot.LearningRule = ByLayer(strength, **settings)
                else:
                    rule = nprobot.learning_rule(option.rule, **settings)
                torch.manual_seed(1)
                for _ in range(FEEDBACK_STEPS.get(feedback, 0)):  # while the weights stay
                    rule.backward(network, *kind.batch())
                network.zero_grad()
                results = [nprobot.alignment(rule, network, *kind.batch()) for _ in range(BATCHES)]
                before = rule.forward_passes
                rule.backward(network, *kind.batch())
                network.zero_grad()
                rows.append(
                    {
                        "batch": kind.name,
                        "rule": label,
                        "samples": draws,
                        "passes": (rule.forward_passes - before) // BATCH,
                        "cosine": fmean(r.total.cosine for r in results),
                        "predicted": fmean(r.total.predicted_cosine for r in results),
                        "norm_ratio": fmean(r.total.norm_ratio for r in results),
                    }
                )
            last = rows[-1]
            print(f"{kind.name}: {label}, K = {last['samples']}: {last['cosine']:.3f}", flush=True)
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    with ROWS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw() -> None:
    """Cosine over forward passes, one panel for each kind of batch."""
    with ROWS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = list(dict.fromkeys(row["batch"] for row in rows))
    figure, axes = plt.subplots(1, len(kinds), figsize=(14, 4.4), sharey=True, layout="constrained")
    for axis, kind in zip(axes, kinds, strict=True):
        curves = defaultdict(list)
        for row in rows:
            if row["batch"] == kind:
                curves[row["rule"]].append(row)
        for label, option in OPTIONS.items():
            own = curves[label]
            passes = [float(row["passes"]) for row in own]
            cosines = [float(row["cosine"]) for row in own]
            style = {"color": option.colour, "linestyle": option.line, "marker": ".", "ms": 5}
            axis.plot(passes, cosines, label=label, **style)
        own = curves["NP"]
        axis.plot(
            [float(row["passes"]) for row in own],
            [float(row["predicted"]) for row in own],
            ":",
            color="grey",
            label="theory, NP",
        )
        axis.set(title=kind, xscale="log", xlabel="forward passes a step", ylim=(0, 1.02))
        axis.grid(alpha=0.25, which="both")
    axes[0].set_ylabel("cosine to the backprop gradient")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside right upper", frameon=False)
    figure.suptitle(f"Alignment with backpropagation, batches of {BATCH}", size=12)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=130)
    print(FIGURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
