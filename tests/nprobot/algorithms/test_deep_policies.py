"""Policies with memory and attention in their features extractors, under PPO."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import nprobot
from nprobot.errors import UnsupportedLayerError


class Memory(BaseFeaturesExtractor):
    dropout = 0.0

    def __init__(self, space):
        super().__init__(space, 8)
        self.gates = nn.GRU(space.shape[1], 8, 2, batch_first=True, dropout=self.dropout)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.gates(x)[0][:, -1])


class Forgetful(Memory):
    dropout = 0.1


class Attentive(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 8)
        self.embed = nn.Linear(space.shape[1], 8)
        self.position = nn.Embedding(space.shape[0], 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=True)

    def forward(self, x):
        h = self.embed(x) + self.position(torch.arange(x.shape[1]))
        return self.block(h.transpose(0, 1))[-1]


def ppo(extractor, rule="np+feedback"):
    env = gym.wrappers.FrameStackObservation(gym.make("InvertedPendulum-v5"), 4)
    settings = {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}
    policy = {"features_extractor_class": extractor, "net_arch": [8]}
    return nprobot.PPO("MlpPolicy", env, rule=rule, policy_kwargs=policy, **settings), env


@pytest.mark.parametrize("rule", ["np+feedback", "danp"])
@pytest.mark.parametrize("extractor", [Memory, Attentive])
def test_every_parameter_moves_and_the_model_is_saved_whole(extractor, rule, tmp_path):
    model, env = ppo(extractor, rule)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.learn(64)
    for name, p in model.policy.named_parameters():
        assert not torch.equal(p, before[name]), name
    model.save(tmp_path / "model.zip")
    twin = nprobot.PPO.load(tmp_path / "model.zip", env=env)
    observation = np.random.default_rng(0).normal(size=(5, *env.observation_space.shape))
    actions = [m.predict(observation, deterministic=True)[0] for m in (model, twin)]
    assert np.array_equal(*actions)
    twin.learn(64)


def test_what_cannot_learn_is_refused_when_the_model_is_made():
    with pytest.raises(UnsupportedLayerError, match=r"gates' \(GRU\).*dropout=0.1"):
        ppo(Forgetful)
