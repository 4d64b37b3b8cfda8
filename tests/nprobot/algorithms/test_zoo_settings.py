"""The RL Zoo's settings of PPO (rl-baselines3-zoo, hyperparams/ppo.yml) for continuous tasks learn.

Rollouts are cut to `ROLLOUT` steps; the rest is as there.
"""

import gymnasium
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import nprobot

ROLLOUT = 64
WIDE = {
    "log_std_init": -2,
    "ortho_init": False,
    "activation_fn": nn.ReLU,
    "net_arch": {"pi": [256, 256], "vf": [256, 256]},
}
MUJOCO = [
    "learning_rate",
    "ent_coef",
    "clip_range",
    "n_epochs",
    "gae_lambda",
    "max_grad_norm",
    "vf_coef",
]


def mujoco(batch_size, gamma, *values, **more):
    return {
        "batch_size": batch_size,
        "gamma": gamma,
        **dict(zip(MUJOCO, values, strict=True)),
        **more,
    }


SETTINGS = {
    "Pendulum-v1": {
        "gae_lambda": 0.95,
        "gamma": 0.9,
        "learning_rate": 1e-3,
        "use_sde": True,
        "sde_sample_freq": 4,
    },
    "MountainCarContinuous-v0": mujoco(
        *(256, 0.9999, 7.77e-05, 0.00429, 0.1, 10, 0.9, 5, 0.19),
        use_sde=True,
        policy_kwargs={"log_std_init": -3.29, "ortho_init": False},
    ),
    "Swimmer-v5": mujoco(
        *(256, 0.9999, 6e-4, 0.0, 0.2, 10, 0.98, 0.5, 0.5),
    ),
    "HalfCheetah-v5": mujoco(
        *(64, 0.98, 2.0633e-05, 0.000401762, 0.1, 20, 0.92, 0.8, 0.58096), policy_kwargs=WIDE
    ),
    "Hopper-v5": mujoco(
        *(32, 0.999, 9.80828e-05, 0.00229519, 0.2, 5, 0.99, 0.7, 0.835671), policy_kwargs=WIDE
    ),
    "HumanoidStandup-v5": mujoco(
        *(32, 0.99, 2.55673e-05, 3.62109e-06, 0.3, 20, 0.9, 0.7, 0.430793), policy_kwargs=WIDE
    ),
    "Humanoid-v5": mujoco(
        *(256, 0.95, 3.56987e-05, 0.00238306, 0.3, 5, 0.9, 2, 0.431892), policy_kwargs=WIDE
    ),
    "InvertedDoublePendulum-v5": mujoco(
        *(512, 0.98, 0.000155454, 1.05057e-06, 0.4, 10, 0.8, 0.5, 0.695929)
    ),
    "InvertedPendulum-v5": mujoco(
        *(64, 0.999, 0.000222425, 1.37976e-07, 0.4, 5, 0.9, 0.3, 0.19816)
    ),
    "Reacher-v5": mujoco(*(32, 0.9, 0.000104019, 7.52585e-08, 0.3, 5, 1.0, 0.9, 0.950368)),
}


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("env_id", SETTINGS)
def test_every_parameter_learns(env_id, tmp_path):
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make(env_id)]))
    model = nprobot.PPO("MlpPolicy", env, n_steps=ROLLOUT, seed=0, **SETTINGS[env_id])
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.learn(ROLLOUT)
    still = [n for n, p in model.policy.named_parameters() if bool((p == before[n]).all())]
    assert not still
    model.save(tmp_path / "model.zip")
    again = nprobot.PPO.load(tmp_path / "model.zip", env=env)
    for name, p in again.policy.named_parameters():
        assert bool((p == model.policy.get_parameter(name)).all()), name
