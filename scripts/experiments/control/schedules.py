"""What suits noisy gradients? Schedules and step rules, one changed at a time, for BP and NP alike.

PPO on Reacher-v5, 100k steps, three seeds; each learner at its own best rate and batch. After every
run the same episodes measure the final weights and their running average (Polyak), so averaging
costs no runs.

    python -m scripts.experiments.control.schedules run     # results/schedules/rows.csv, 25 minutes
    python -m scripts.experiments.control.schedules report  # table in docs/variance.md
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

import nprobot

from ..pages import DOCS, markdown, put_section, spread
from ..rows import RESULTS, Only, column, command, keep, read, select

ROWS = RESULTS / "schedules" / "rows.csv"
TASK, STEPS, ENVS, N_STEPS, EPOCHS = "Reacher-v5", 100_000, 8, 256, 10
SEEDS = (0, 1, 2)
EPISODES = 50
AVERAGED_ROLLOUTS = 2
"""Window of the running average of the weights, in rollouts; equal in environment steps for all."""


@dataclass(frozen=True)
class Learner:
    """A rule with the rate and batch that searches found for it, and whether it clips."""

    rule: str
    settings: dict[str, Any] | None
    rate: float
    batch: int
    clip: float


LEARNERS = {
    "BP": Learner("bp", None, 1e-3, 64, 0.5),
    "NP + feedback, K = 1": Learner("np+feedback", {"samples": 1, "sigma": 1e-3}, 3e-3, 256, 0.5),
    "DANP, K = 8": Learner(
        "danp", {"samples": 8, "sigma": 1e-2, "decorrelation_lr": 1e-3}, 3e-3, 256, float("inf")
    ),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is: linear decay, momentum 0.9": {},
    "constant rate": {"decay": False},
    "momentum 0": {"momentum": 0.0},
    "momentum 0.97": {"momentum": 0.97},
    "clipping the other way round": {"flip_clip": True},
    "clipping at twice the median norm": {"outliers": True},
    "batches four times as large in the last third": {"grow": 4},
    "gradient of every layer scaled to norm 1": {"layerwise": True},
}


class Grow(BaseCallback):
    """Larger minibatches in the last third."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def _on_rollout_start(self) -> None:
        if self.factor > 1 and self.num_timesteps >= STEPS * 2 / 3:
            self.model.batch_size *= self.factor  # type: ignore[attr-defined]
            self.factor = 1

    def _on_step(self) -> bool:
        return True


def run(only: Only = ()) -> None:
    """Train and measure what has no row."""
    jobs = itertools.product(SEEDS, VARIANTS, LEARNERS)
    named = [{"learner": name, "variant": variant, "seed": seed} for seed, variant, name in jobs]
    keep(ROWS, named, train, only=only)


def train(learner: str, variant: str, seed: int) -> dict[str, Any]:
    """Train once; measure the final weights and their average."""
    own, options = LEARNERS[learner], VARIANTS[variant]
    clip = own.clip
    if options.get("outliers"):
        clip = float("inf")
    elif options.get("flip_clip"):
        clip = 0.5 if clip == float("inf") else float("inf")
    momentum = options.get("momentum", 0.9)
    started = time.process_time()
    env = VecNormalize(make_vec_env(TASK, ENVS, seed=seed))
    model = nprobot.PPO(
        "MlpPolicy",
        env,
        LinearSchedule(own.rate, 0.0, 1.0) if options.get("decay", True) else own.rate,
        rule=own.rule,
        rule_kwargs=own.settings,
        batch_size=own.batch,
        n_steps=N_STEPS,
        n_epochs=EPOCHS,
        max_grad_norm=clip,
        # SB3's own eps, which it drops as soon as anything is given.
        policy_kwargs={"optimizer_kwargs": {"betas": (momentum, 0.999), "eps": 1e-5}},
        seed=seed,
        device="cpu",
    )
    prepare: Callable[[nn.Module], None] | None = None
    if options.get("layerwise"):
        prepare = scale_layers
    elif options.get("outliers"):
        prepare = ClipOutliers()
    average = averaged(model, own.batch, prepare)
    model.learn(STEPS, callback=Grow(int(options.get("grow", 1))))
    final = score(model, env, seed)
    model.policy.load_state_dict(average)
    mean = score(model, env, seed)
    spent = round(time.process_time() - started, 1)
    found = {"return": round(final, 3), "return_averaged": round(mean, 3), "episodes": EPISODES}
    return {"env": TASK, "steps": STEPS, **found, "cpu_seconds": spent}


def averaged(
    model: BaseAlgorithm, batch: int, prepare: Callable[[nn.Module], None] | None
) -> dict[str, Tensor]:
    """A running average of the policy's state, kept up by the optimiser's own steps.

    Args:
        model: its optimiser's `step` is wrapped.
        batch: minibatch size, which tells how many steps a rollout takes.
        prepare: what to do to the gradients before each step.
    """
    updates = AVERAGED_ROLLOUTS * EPOCHS * ENVS * N_STEPS // batch
    optimizer = model.policy.optimizer
    plain: Callable[[], Any] = optimizer.step
    average: dict[str, Tensor] = {}

    def step() -> None:
        if prepare is not None:
            prepare(model.policy)
        plain()
        for name, value in model.policy.state_dict().items():
            average.setdefault(name, value.clone()).lerp_(value, 1 / updates)

    optimizer.step = step  # type: ignore[method-assign]
    return average


class ClipOutliers:
    """Clip the whole gradient at twice the median of its last hundred norms."""

    def __init__(self) -> None:
        self.norms: deque[float] = deque(maxlen=100)

    def __call__(self, policy: nn.Module) -> None:
        """Clip, and remember the norm there was."""
        limit = 2 * statistics.median(self.norms) if self.norms else float("inf")
        self.norms.append(float(nn.utils.clip_grad_norm_(policy.parameters(), limit)))


def scale_layers(policy: nn.Module) -> None:
    """Bring the gradient of every layer, weights and biases together, to norm 1."""
    for layer in policy.modules():
        own = [p.grad for p in layer.parameters(recurse=False) if p.grad is not None]
        if own:
            norm = nn.utils.get_total_norm(own)
            for gradient in own:
                gradient.div_(norm + 1e-12)


def score(model: BaseAlgorithm, env: VecNormalize, seed: int) -> float:
    """Mean return of deterministic episodes, the same for every learner of a seed."""
    fresh = VecNormalize(
        make_vec_env(TASK, ENVS, seed=1000 + seed), training=False, norm_reward=False
    )
    fresh.obs_rms = env.obs_rms
    mean, _ = evaluate_policy(model, fresh, EPISODES)
    return float(mean)


def report() -> None:
    """Mean ± standard deviation over seeds, of final and of averaged weights."""
    rows, lines = read(ROWS), []
    for variant in VARIANTS:
        cells = [variant]
        for name in LEARNERS:
            own = select(rows, learner=name, variant=variant)
            mean = f" ({statistics.fmean(column(own, 'return_averaged')):.2f})" if own else "–"
            cells.append(spread(column(own, "return"), 2) + mean)
        lines.append(cells)
    heading = (f"{TASK}, {STEPS // 1000}k steps: final (averaged weights)", *LEARNERS)
    put_section("schedules", markdown(heading, lines), DOCS / "variance.md")


if __name__ == "__main__":
    command(__doc__, run, report)
