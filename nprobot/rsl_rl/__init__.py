"""Node perturbation inside rsl_rl: an algorithm for its runners, and robots as its environments.

Name ``"nprobot.rsl_rl:PPO"`` as the `class_name` of a runner's algorithm; see docs/rsl_rl.md.
"""

try:
    import rsl_rl as _rsl_rl  # noqa: F401 - the package of that name, not this one
except ImportError as error:
    from ..errors import MissingPackageError

    raise MissingPackageError(
        f"nprobot.rsl_rl needs `pip install 'nprobot[rsl_rl]'` ({error})"
    ) from error

from .runner_env import RunnerEnv as RunnerEnv
from .runner_ppo import RunnerPPO as PPO

__all__ = ["PPO", "RunnerEnv"]
