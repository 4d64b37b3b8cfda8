"""PPO's rollouts by plain perceptrons, in numpy: what SB3's `collect_rollouts` does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from nprobot.errors import NonFiniteError
from nprobot.learning.perceptrons import Activation, Layer, NoShortForm, Perceptrons, product
from nprobot.policies.distributions import Categorical, DiagonalGaussian

from .short_update import ShortUpdate

if TYPE_CHECKING:
    from nprobot.algorithms.ppo import PPO

Array = NDArray[Any]


class ShortRollout:
    """Acts, and fills a rollout buffer.

    Actions are drawn from torch's generator as SB3 draws them, so a rollout is the same to
    rounding.

    Args:
        model: whose policy acts.
        update: its networks as arrays.

    Raises:
        NoShortForm: why SB3 does it.
    """

    def __init__(self, model: PPO, update: ShortUpdate) -> None:
        policy = type(model.policy)
        if policy.forward is not ActorCriticPolicy.forward or policy.predict_values is not (
            ActorCriticPolicy.predict_values
        ):
            raise NoShortForm(f"{policy.__name__} acts in another way")
        if type(model.rollout_buffer) is not RolloutBuffer:
            raise NoShortForm(f"{type(model.rollout_buffer).__name__} is no plain buffer")
        self.gaussian = type(model.distribution) is DiagonalGaussian
        self.discrete = isinstance(model.action_space, spaces.Discrete)
        if not self.gaussian and not (self.discrete and type(model.distribution) is Categorical):
            raise NoShortForm(f"actions in {model.action_space} are drawn by SB3")
        stacks = update.stacks.stacks
        self.actor = _Network(stacks[0], 0)
        self.critic = _Network(stacks[-1], len(stacks[-1].layers) - 1)

    def collect(
        self,
        model: PPO,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """See SB3's `collect_rollouts`; what callbacks find among the locals is the same."""
        assert model._last_obs is not None, "No previous observation was provided"
        model.policy.set_training_mode(False)
        self.actor.refresh()
        self.critic.refresh()
        n_steps = 0
        rollout_buffer.reset()
        callback.on_rollout_start()
        while n_steps < n_rollout_steps:
            last_obs: Any = model._last_obs
            obs_tensor = obs_as_tensor(last_obs, model.device)
            x = self._rows(model, obs_tensor)
            chosen, chance = self._act(x)
            worth = self.critic(x)[0]
            actions: Array = chosen.reshape(-1, *(model.action_space.shape or ()))
            values, log_probs = torch.from_numpy(worth), torch.from_numpy(chance)
            clipped_actions = actions
            if isinstance(model.action_space, spaces.Box):
                low, high = model.action_space.low, model.action_space.high
                clipped_actions = np.minimum(np.maximum(actions, low), high)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            model.num_timesteps += env.num_envs
            callback.update_locals(locals() | {"self": model})
            if not callback.on_step():
                return False
            model._update_info_buffer(infos, dones)
            for index in np.flatnonzero(dones):
                last = infos[index].get("terminal_observation")
                if last is not None and infos[index].get("TimeLimit.truncated", False):
                    terminal_obs = model.policy.obs_to_tensor(last)[0]
                    value = self.critic(self._rows(model, terminal_obs))[0]
                    rewards[index] += model.gamma * value[0, 0]
            row = rollout_buffer.pos
            kept = rollout_buffer.observations[row]
            kept[...] = np.reshape(last_obs, kept.shape)
            rollout_buffer.actions[row] = chosen
            rollout_buffer.rewards[row] = rewards
            rollout_buffer.episode_starts[row] = model._last_episode_starts
            rollout_buffer.values[row] = worth[:, 0]
            rollout_buffer.log_probs[row] = chance
            rollout_buffer.pos = n_steps = n_steps + 1
            model._last_obs = new_obs  # type: ignore[assignment]
            model._last_episode_starts = dones
        rollout_buffer.full = True
        last_obs = new_obs
        following = self._rows(model, obs_as_tensor(last_obs, model.device))
        advantages(rollout_buffer, self.critic(following)[0][:, 0], dones)
        callback.update_locals(locals() | {"self": model})
        callback.on_rollout_end()
        return True

    def _rows(self, model: PPO, observations: Any) -> Array:  # noqa: ANN401 - SB3's own types
        """Observations as the networks take them, (environments, d)."""
        if observations.dtype is torch.float32 and observations.dim() == 2:
            rows: Array = observations.numpy()
            return rows
        prepared = preprocess_obs(
            observations, model.observation_space, model.policy.normalize_images
        )
        assert isinstance(prepared, torch.Tensor), "a chain takes one vector"
        return prepared.flatten(1).numpy()

    def _act(self, x: Array) -> tuple[Array, Array]:
        """Actions, (environments, m), and their log-probabilities."""
        outputs = self.actor(x)
        if not math.isfinite(np.add.reduce(outputs[0], axis=None)):
            raise NonFiniteError(
                "the distribution of the actions has become invalid: the policy's outputs are not "
                "finite"
            )
        if self.gaussian:
            mean, log_std = outputs
            z = torch.randn(mean.shape).numpy()
            constant = float(np.add.reduce(log_std, axis=None)) + z.shape[1] * HALF_LOG_2_PI
            return mean + z * np.exp(log_std), -0.5 * np.vecdot(z, z) - np.float32(constant)
        (logits,) = outputs
        shifted = logits - logits.max(-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        drawn = torch.multinomial(torch.from_numpy(np.exp(log_p)), 1, True).numpy()
        return drawn, np.take_along_axis(log_p, drawn, 1)[:, 0]


HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class _Network:
    """Outputs of one network of a stack, for a few rows."""

    def __init__(self, stack: Perceptrons, index: int) -> None:
        self.layers: list[Layer] = stack.layers[index]
        self.hidden: list[tuple[Layer, Activation]] = list(
            zip(stack.hidden[index], stack.activations, strict=True)
        )
        self.heads: list[Layer] = stack.heads[index]

    def refresh(self) -> None:
        for layer in self.layers:
            layer.refresh()

    def __call__(self, x: Array) -> list[Array]:
        for layer, activation in self.hidden:
            x = product(x, layer.weight.T)
            if layer.bias is not None:
                x += layer.bias
            activation(x, x)
        outputs = []
        for head in self.heads:
            if not head.linear:
                assert head.bias is not None, "a bias head is its bias"
                outputs.append(head.bias)
            else:
                y = product(x, head.weight.T)
                outputs.append(y if head.bias is None else y + head.bias)
        return outputs


def advantages(buffer: RolloutBuffer, last_values: Array, dones: Array) -> None:
    """`RolloutBuffer.compute_returns_and_advantage`, bit for bit, in one pass.

    Args:
        buffer: full.
        last_values: the values of the observations after the last step, (environments,).
        dones: whether episodes ended with it.
    """
    goes_on = np.empty_like(buffer.episode_starts)
    np.subtract(1.0, buffer.episode_starts[1:], out=goes_on[:-1])
    goes_on[-1] = 1.0 - dones.astype(np.float32)
    following = np.concatenate([buffer.values[1:], last_values[None]])
    delta = buffer.rewards + buffer.gamma * following * goes_on - buffer.values
    decay = buffer.gamma * buffer.gae_lambda * goes_on
    last = np.zeros_like(last_values)
    for row in range(buffer.buffer_size - 1, -1, -1):
        last = delta[row] + decay[row] * last
        buffer.advantages[row] = last
    buffer.returns = buffer.advantages + buffer.values
