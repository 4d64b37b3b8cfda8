"""PPO in one file, as CleanRL writes it, with a rule where `loss.backward()` stood."""

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

import nprobot


def main(rule: str = "np+feedback", updates: int = 60, seed: int = 0) -> tuple[float, float]:
    """Train; returns the mean steps of the first and of the last 20 episodes."""
    torch.manual_seed(seed)
    mode, envs, steps, std, ages = AutoresetMode.SAME_STEP, 8, 128, 0.5, np.zeros(8)
    venv = gymnasium.make_vec("InvertedPendulum-v5", envs, vector_kwargs={"autoreset_mode": mode})
    learner = nprobot.learning_rule(rule, seed=seed)
    actor, critic = (nprobot.policies.mlp(size) for size in ([4, 64, 64, 1], [4, 64, 64, 1]))
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    lengths: list[float] = []
    obs = torch.tensor(venv.reset(seed=seed)[0]).float()
    for _ in range(updates):
        rollout = []
        for _ in range(steps):
            mean, value = actor(obs).detach(), critic(obs).detach().squeeze(-1)
            action = mean + std * torch.randn_like(mean)
            new, reward, terminated, truncated, _ = venv.step(action.numpy())
            done, ages = terminated | truncated, ages + 1
            lengths, ages = [*lengths, *ages[done]], ages * ~done
            told = torch.tensor(np.stack([reward, done])).float()
            rollout.append((obs, action, mean, value, *told))
            obs = torch.tensor(new).float()
        seen, acts, means, values, rewards, dones = map(torch.stack, zip(*rollout, strict=True))
        ahead, gae, gaes = critic(obs).detach().squeeze(-1), torch.zeros(envs), []
        for t in reversed(range(steps)):
            delta = rewards[t] + 0.99 * ahead * (1 - dones[t]) - values[t]
            gae, ahead = delta + 0.99 * 0.95 * (1 - dones[t]) * gae, values[t]
            gaes.insert(0, gae)
        advantages = torch.stack(gaes)
        fields = [x.flatten(0, 1) for x in (seen, acts, means, advantages, advantages + values)]
        for rows in [r for _ in range(5) for r in torch.randperm(steps * envs).split(256)]:
            x, action, old, gain, target = (field[rows] for field in fields)
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)

            def actor_loss(mean: Tensor, data: tuple[Tensor, ...] = (action, old, gain)) -> Tensor:
                action, old, gain = data  # one loss a sample, where CleanRL takes the mean
                ratio = ((action - old) ** 2 - (action - mean) ** 2).sum(-1).div(2 * std**2).exp()
                return -torch.min(gain * ratio, gain * ratio.clamp(0.8, 1.2))

            optimizer.zero_grad()
            learner.backward(actor, x, actor_loss)
            learner.backward(critic, x, lambda v, target=target: 0.5 * (v[..., 0] - target) ** 2)
            nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
    return float(np.mean(lengths[:20])), float(np.mean(lengths[-20:]))


if __name__ == "__main__":
    print("steps upright, first and last episodes: {:.0f}, {:.0f}".format(*main()))
