"""A training loop of torchrl, with a rule where its loss module and `loss.backward()` stood."""

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import Compose, DoubleToFloat, GymEnv, StepCounter, TransformedEnv
from torchrl.modules import IndependentNormal as Normal
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, ValueOperator
from torchrl.objectives.value import GAE

import nprobot


def main(rule: str = "np+feedback", batches: int = 40, seed: int = 0) -> list[float]:
    """Train; returns the longest episode of each batch, in steps."""
    torch.manual_seed(seed)
    learner = nprobot.learning_rule(rule, seed=seed)
    actor, critic = nprobot.policies.mlp([4, 64, 64, 2]), nprobot.policies.mlp([4, 64, 64, 1])
    spread = NormalParamExtractor()
    policy = ProbabilisticActor(
        TensorDictModule(nn.Sequential(actor, spread), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=Normal,
        return_log_prob=True,
    )
    values = ValueOperator(critic, in_keys=["observation"])
    advantages = GAE(gamma=0.99, lmbda=0.95, value_network=values, average_gae=True)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    env = TransformedEnv(GymEnv("InvertedPendulum-v5"), Compose(DoubleToFloat(), StepCounter()))
    env.set_seed(seed)
    collector = Collector(env, policy, frames_per_batch=1024, total_frames=1024 * batches)
    longest = []
    for data in collector:
        longest.append(float(data["step_count"].max()))
        with torch.no_grad():
            advantages(data)
        for rows in [r for _ in range(5) for r in torch.randperm(1024).split(256)]:
            batch = data[rows]
            x, target = batch["observation"], batch["value_target"].squeeze(-1)

            def actor_loss(outputs: Tensor, batch=batch) -> Tensor:  # noqa: ANN001
                now = Normal(*spread(outputs)).log_prob(batch["action"])
                ratio, gain = (now - batch["action_log_prob"]).exp(), batch["advantage"][..., 0]
                return -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain)  # one a sample

            optimizer.zero_grad()
            learner.backward(actor, x, actor_loss)
            learner.backward(critic, x, lambda v, target=target: 0.5 * (v[..., 0] - target) ** 2)
            nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
    collector.shutdown()
    return longest


if __name__ == "__main__":
    print("longest episode of each batch:", *map(int, main()))
