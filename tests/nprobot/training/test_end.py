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
from nprobot.training import callback, training_run
from nprobot.training.evaluation import Evaluation
from nprobot.training.groups import GroupDescription
from nprobot.training.run_config import LearningOptions
from nprobot.training.run_folder import RunFolder
from nprobot.training.training_run import resume, train

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

    def test_keeps_the_policy_of_the_best_evaluation(self, tmp_path, monkeypatch):
        """By deterministic evaluation, also over a resume; the last policy is another one."""
        scores, seen = iter([1.0, 5.0, 3.0, 4.0, 2.0]), []

        def scored(policy, **options):
            if not options:  # at the end
                return Evaluation("x", 0, (3.5, 3.5), (1, 1))
            seen.append(policy)
            return Evaluation("x", 0, (next(scores),), (1,))

        monkeypatch.setattr(callback, "evaluate", scored)
        monkeypatch.setattr(training_run, "evaluate", scored)
        run, listener = tmp_path / "run", Listener()
        config = dataclasses.replace(CONFIG, evaluate_every=128, checkpoint_every=128)
        train(config, run, reporter=listener)
        best = policy_file.load(run / "best")
        assert best.provenance["steps"] == 256
        x = np.ones(best.observation_shape)
        assert best.predict(x) == seen[1].predict(x) != seen[2].predict(x)
        assert any("return of 5.0" in m and str(run / "best") in m for m in listener.messages)
        resume(run, dataclasses.replace(RunFolder.open(run).config, steps=768))
        assert policy_file.load(run / "best").provenance["steps"] == 256

    def test_says_where_exploration_and_policy_part(self, tmp_path, monkeypatch):
        far = Evaluation("x", 0, (-1e4, -1e4 + 1), (1, 1))
        monkeypatch.setattr(training_run, "evaluate", lambda policy: far)
        listener = Listener()
        train(CONFIG, tmp_path / "run", reporter=listener)
        assert any("without exploration it is -9999.5 ± 0.7" in m for m in listener.messages)

    def test_says_that_a_longer_run_changes_a_falling_rate(self, tmp_path):
        run, listener = tmp_path / "run", Listener()
        learning = LearningOptions(learning_rate=1e-3, lr_schedule="linear")
        train(dataclasses.replace(CONFIG, learning=learning), run)
        longer = dataclasses.replace(RunFolder.open(run).config, steps=1024)
        resume(run, longer, reporter=listener)
        assert any("at step 512 it is 0.0005 instead of 0" in m for m in listener.messages)

    def test_says_what_happens_without_a_step_limit(self, tmp_path):
        gymnasium.register("Tests/NoLimit-v0", lambda: Faulty("last", 20))
        for env, said in {"Tests/NoLimit-v0": True, "InvertedPendulum-v5": False}.items():
            folder = RunFolder(tmp_path, dataclasses.replace(CONFIG, env=env))
            about = GroupDescription(None, None, None, None, None)
            text = training_run.introduction(folder, about)
            assert ("no step limit" in text and "10,000 steps" in text) == said

    @pytest.mark.parametrize(
        ("steps", "said"), [(500, "512 steps (500, rounded up"), (512, "512 steps,")]
    )
    def test_says_how_many_steps_it_takes(self, tmp_path, steps, said):
        listener = Listener()
        config = dataclasses.replace(CONFIG, steps=steps)
        assert train(config, tmp_path / "run", reporter=listener).steps == 512
        assert said in listener.messages[0]

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
