"""How a run ends: solved, asked to, or by a fault that is named."""

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from nprobot.errors import EnvironmentUnavailableError, NonFiniteError
from nprobot.policies.files import policy_file
from nprobot.runs.checkpoints import numbered
from nprobot.runs.folder import find_policy
from nprobot.runs.log import column, read_table
from nprobot.training import training_run
from nprobot.training.run_config import LearningOptions
from nprobot.training.training_run import train

from .helpers import CONFIG, Listener


class Faulty(gymnasium.Env):
    """Returns NaN where and when it is told to."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, fault, at):
        self.fault, self.at, self.steps = fault, at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        bad = self.steps == self.at
        observation = np.full(2, np.nan if bad and self.fault != "reward" else 0, np.float32)
        reward = math.inf if bad and self.fault == "reward" else 0.0
        return observation, reward, bad and self.fault == "last", False, {}


gymnasium.register("Tests/Faulty-v0", Faulty, max_episode_steps=1000)


class TestEnd:
    def test_stops_at_a_return(self, tmp_path):
        listener = Listener()
        config = dataclasses.replace(CONFIG, stop_at=1.0, evaluate_every=256, steps=2048)
        result = train(config, tmp_path / "run", reporter=listener)
        assert result.steps == 256
        assert any("solved" in message for message in listener.messages)
        assert column(read_table(result.folder.progress), "eval/mean_reward")[0] == [256, 256]

    def test_ends_between_two_updates_when_asked(self, tmp_path):
        class Impatient(Listener):
            def progress(self, progress):
                if progress.done == 256:
                    runs[0].stop_requested = True

        runs = []
        original = training_run.RunCallback

        def remember(*args):
            runs.append(original(*args))
            return runs[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training_run, "RunCallback", remember)
            result = train(CONFIG, tmp_path / "run", reporter=Impatient())
        assert result.interrupted
        assert result.steps == 256
        assert numbered(result.folder.checkpoints)[0].name == "step_000000256"

    @pytest.mark.parametrize(
        ("fault", "what"),
        [("observation", "observation"), ("reward", "reward"), ("last", "last observation")],
    )
    def test_a_fault_of_the_environment(self, tmp_path, fault, what):
        kwargs = {"fault": fault, "at": 300}
        config = dataclasses.replace(CONFIG, env="Tests/Faulty-v0", env_kwargs=kwargs, steps=1024)
        with pytest.raises(NonFiniteError, match=rf"at step \d+: the {what}.*environment") as e:
            train(config, tmp_path / "run")
        assert "checkpoints/step_000000512" in str(e.value)
        state = policy_file.load(find_policy(tmp_path / "run"))  # the last good policy
        assert np.isfinite(state.predict(np.zeros(2))).all()

    @pytest.mark.parametrize("rule", ["danp", "bp"])
    def test_a_learning_rate_far_too_high(self, tmp_path, rule):
        learning = LearningOptions(learning_rate=1e30)
        config = dataclasses.replace(CONFIG, rule=rule, learning=learning, checkpoint_every=512)
        with pytest.raises(NonFiniteError, match="--learning-rate"):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run" / "checkpoints").exists()

    def test_an_environment_that_no_policy_fits_leaves_no_folder(self, tmp_path):
        config = dataclasses.replace(CONFIG, env="FrozenLake-v1")
        with pytest.raises(EnvironmentUnavailableError, match="Discrete"):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()
