"""Learning that continues on the robot: a motor fails, and the policy learns to do without.

python scripts/examples/keep_learning.py
"""

import argparse
from pathlib import Path

import gymnasium

import nprobot
from nprobot.adaptation import ActuatorFault, AdaptationConfig, adapt, save_adapted


def main(steps: int = 100_000, episodes: int = 40, out: str = "adapted-reacher") -> float:
    """Adapt a policy of the zoo; returns the mean return with the faults, after learning."""
    policy = nprobot.policies.zoo.load_policy("Reacher")
    faults = [
        ActuatorFault.parse("gain:0=0.4"),  # motor 0 keeps 40 % of its gain, at once
        ActuatorFault.parse("drift:1=0.2"),  # motor 1 is off by 0.2 half ranges, slowly
    ]
    config = AdaptationConfig(steps=steps, calibration=steps // 5, seed=0)
    result = adapt(
        policy,
        lambda: gymnasium.make("Reacher-v5"),
        faults,
        config,
        evaluation_episodes=episodes,
    )
    print(f"healthy {result.healthy.mean:.1f}, with the faults {result.before.mean:.1f}")
    print(f"after learning on the robot {result.after.mean:.1f}")
    save_adapted(result, Path(out), faults, config)
    print(f"policy: {out}")
    return result.after.mean


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    main(**vars(parser.parse_args()))
