"""How well each rule regresses a critic: the part of SAC and TD3 where perturbation is weakest.

A teacher's Q values of transitions on Pendulum-v1 are learned anew, by one setting after the other:
what differs is the regression alone, not exploration or targets that move. The teacher is SAC by
backpropagation, half way through its learning.

    python scripts/off_policy_critic.py   # rows of critic.csv that are not there yet
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from off_policy import COMMON, RESULTS, append, read
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

import nprobot

STEPS = (300, 750, 1500)
"""Gradient steps after which the test error is taken."""
ROWS, TEST_ROWS, BATCH = 6000, 1000, 256
CURRENT: dict[str, Any] = {"samples": 8, "sigma": 1e-2, "noise": "rademacher"}


@dataclass(frozen=True)
class Setting:
    """One way to learn."""

    rule: str
    learning_rate: float = 1e-3
    activation: str = "relu"
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> dict[str, str]:
        """What tells its row from others."""
        return {
            "rule": self.rule,
            "learning_rate": str(self.learning_rate),
            "activation": self.activation,
            "changes": " ".join(f"{name}={value}" for name, value in self.changes.items()),
        }


SETTINGS = [
    *(Setting("bp", rate, act) for act in ("relu", "tanh") for rate in (1e-3, 3e-3)),
    *(Setting("danp", rate, act) for act in ("relu", "tanh") for rate in (1e-3, 3e-3)),
    *(Setting(rule) for rule in ("np", "anp", "dnp", "dinp")),
    *(Setting("danp", changes={"samples": samples}) for samples in (1, 2, 4, 32)),
    *(Setting("danp", changes={"sigma": sigma}) for sigma in (1e-3, 1e-1)),
    *(Setting("danp", changes={"decorrelation_lr": rate}) for rate in (1e-4, 1e-2)),
    Setting("danp", changes={"noise": "gaussian"}),
    *(Setting("dnp", rate, changes={"feedback": True}) for rate in (1e-3, 3e-3)),
    Setting("dnp", changes={"feedback": True, "samples": 1}),
    Setting("anp", 3e-3),
    *(Setting("danp", 3e-3, changes={"decorrelation_lr": rate}) for rate in (1e-5, 1e-4)),
    Setting("dnp", 3e-3, changes={"feedback": True, "decorrelation_lr": 1e-4}),
    *(Setting("danp", 3e-3, changes={"decorrelation_lr": 1e-4, "samples": k}) for k in (1, 32)),
    Setting("danp", 1e-2, changes={"decorrelation_lr": 1e-4}),
    Setting("np", 3e-3, changes={"feedback": True, "samples": 1, "sigma": 1e-3}),
    *(
        Setting(rule, 3e-3, changes={"samples": k, "noise": noise, **slow})
        for rule, slow in (("np", {}), ("danp", {"decorrelation_lr": 1e-4}))
        for k in (32, 128)
        for noise in ("rademacher", "orthogonal")
    ),
]


def main() -> None:
    """Regress by every setting that has no row yet."""
    torch.set_num_threads(1)
    rows = RESULTS / "critic.csv"
    done = [{name: row[name] for name in SETTINGS[0].key} for row in read(rows)]
    waiting = [setting for setting in SETTINGS if setting.key not in done]
    if not waiting:
        return
    inputs, targets = teacher()
    for setting in waiting:
        row = {**setting.key, **regress(setting, inputs, targets)}
        append(rows, [row])
        print(row, flush=True)


def teacher() -> tuple[Tensor, Tensor]:
    """Observations with actions, and the Q values that a half-trained critic gives them."""
    env = VecNormalize(make_vec_env("Pendulum-v1", 4, seed=9))
    model = nprobot.SAC(
        "MlpPolicy",
        env,
        LinearSchedule(3e-3, 0.0, 1.0),
        rule="bp",
        **COMMON | {"tau": 0.005, "gamma": 0.99},
        gradient_steps=2,
        ent_coef="auto_0.01",
        seed=9,
    )
    model.learn(3_000)
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(ROWS, env=env)
    assert isinstance(batch.observations, Tensor)
    with torch.no_grad():
        values = torch.cat(model.critic(batch.observations, batch.actions), dim=1).mean(1)
    return torch.cat([batch.observations, batch.actions], dim=1), values / values.std()


def regress(setting: Setting, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Normalised mean squared error on rows held out, and processor time of a step."""
    torch.manual_seed(0)
    rule = nprobot.learning_rule(setting.rule, seed=0, **CURRENT | setting.changes)
    network = nprobot.policies.mlp(
        [inputs.shape[1], 64, 64, 1],
        activation=setting.activation,
        decorrelated=rule.decorrelated,
    )
    optimizer = torch.optim.Adam(network.parameters(), setting.learning_rate, fused=True)
    found: dict[str, float] = {}
    start = time.process_time()
    for step in range(1, STEPS[-1] + 1):
        rows = torch.randint(TEST_ROWS, ROWS, (BATCH,))
        target = targets[rows]
        optimizer.zero_grad()
        rule.backward(network, inputs[rows], lambda q, y=target: (q.squeeze(-1) - y).square())
        optimizer.step()
        rule.decorrelate(network)
        if step in STEPS:
            with torch.no_grad():
                error = network(inputs[:TEST_ROWS]).squeeze(-1) - targets[:TEST_ROWS]
            found[f"nmse_{step}"] = float(error.square().mean() / targets[:TEST_ROWS].var())
    found["milliseconds"] = round(1e3 * (time.process_time() - start) / STEPS[-1], 2)
    return found


if __name__ == "__main__":
    main()
