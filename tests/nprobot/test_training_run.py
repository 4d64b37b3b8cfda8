"""A run on disk: what is in its folder, what a checkpoint keeps, how a run ends."""

import csv
import dataclasses
import errno
import json
import math
import shutil

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import LinearSchedule

from nprobot.policies import policy_file
from nprobot.training import checkpoints, session
from nprobot.training.build import SCHEDULES, build_model, learning_rates, resolve, schedule_name
from nprobot.training.checkpoint_folder import numbered
from nprobot.training.checkpoints import load_checkpoint, training_state
from nprobot.training.config import (
    ALGORITHMS,
    AlgorithmOptions,
    LearningOptions,
    NetworkOptions,
    RunConfig,
)
from nprobot.training.errors import (
    ConfigError,
    DamagedRunError,
    EnvironmentUnavailableError,
    ForeignRunError,
    NewerRunError,
    NonFiniteError,
    RunExistsError,
    RunNotFoundError,
    StorageError,
)
from nprobot.training.progress_file import ProgressTable, column, read_table
from nprobot.training.run_folder import RunFolder, default_path, find_policy
from nprobot.training.runner import resume, train
from nprobot.training.seeds import Seeds
from nprobot.training.state import load_state, save_state
from nprobot.training.vector import make_vector

CONFIG = RunConfig(
    steps=512,
    samples=2,
    seed=3,
    envs=2,
    checkpoint_every=200,
    network=NetworkOptions(hidden=(8, 8)),
    algorithm=AlgorithmOptions(n_steps=64, batch_size=32, n_epochs=2),
)
STEPS = "time/total_timesteps"


class Listener:
    """Keeps what a run reports."""

    def __init__(self):
        self.folder, self.steps, self.messages = None, [], []

    def begin(self, folder):
        self.folder = folder

    def progress(self, progress):
        self.steps.append(progress.steps)

    def message(self, text):
        self.messages.append(text)


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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    listener = Listener()
    path = tmp_path_factory.mktemp("runs") / "first"
    result = train(CONFIG, path, reporter=listener, command="nprobot train --seed 3")
    return result, listener


@pytest.fixture
def copy(run, tmp_path):
    """A run that a test may change."""
    path = tmp_path / "copy"
    shutil.copytree(run[0].folder.path, path, symlinks=True)
    return path


def parameters(model):
    return torch.cat([tensor.flatten().double() for tensor in model.policy.state_dict().values()])


class TestFolder:
    def test_files(self, run):
        path = run[0].folder.path
        names = {p.name for p in path.iterdir()}
        events = {name for name in names if name.startswith("events.out.tfevents")}
        assert len(events) == 1
        assert names - events == {"config.json", "progress.csv", "checkpoints", "curve.png"}
        steps = sorted(p.name for p in (path / "checkpoints").iterdir())
        assert steps == ["last", "step_000000256", "step_000000512"]
        assert (path / "checkpoints" / "last").resolve().name == "step_000000512"
        kinds = {p.suffix for p in (path / "checkpoints").rglob("*") if p.is_file()}
        assert kinds == {".json", ".safetensors"}

    def test_config_says_what_was_used(self, run):
        written = json.loads((run[0].folder.path / "config.json").read_text())
        config = written["config"]
        assert written["command"] == "nprobot train --seed 3"
        assert config["algorithm"]["n_steps"] == 64
        own = {name: config["algorithm"][name] for name in ALGORITHMS["ppo"]}
        used = {**config, **own, **config["learning"], **config["network"]}
        assert used["gamma"] == 0.99
        assert used["activation"] == "tanh"
        unset = {name for name, value in used.items() if value is None}
        assert unset <= {
            *("stop_at", "evaluate_every", "target_kl", "max_grad_norm", "hardware"),
            *("sensor", "alignment_every"),
        }
        packages = {"python", "nprobot", "torch", "mujoco", "gymnasium", "numpy"}
        assert packages < set(written["sessions"][0]["versions"])
        assert RunFolder.open(run[0].folder.path).config == run[0].folder.config

    def test_progress_has_the_names_of_sb3(self, run):
        rows = read_table(run[0].folder.progress)
        assert {"rollout/ep_rew_mean", "time/fps", "train/value_loss"} < set(rows[1])
        assert column(rows, "rollout/ep_rew_mean")[0] == [128, 256, 384, 512]
        assert column(rows, "eval/mean_reward") == ([512], [run[0].evaluation.mean])

    def test_curve_is_a_picture(self, run):
        from matplotlib.image import imread

        image = imread(run[0].folder.curve)
        assert image.shape[1] > 800
        assert image.std() > 0.02

    def test_policy_is_the_models(self, run):
        result, _ = run
        policy = policy_file.load(find_policy(result.folder.path))
        x = np.random.default_rng(0).normal(size=(50, 4))
        assert (policy.predict(x) == result.policy.predict(x)).all()
        assert policy.task.id == "InvertedPendulum-v5"
        assert policy.task.control_rate == 25.0
        assert policy.provenance["steps"] == 512
        assert policy.provenance["rule"] == "danp"

    def test_result(self, run):
        result, listener = run
        assert result.steps == 512
        # Two networks; one clean and two noisy passes; two epochs.
        assert result.forward_passes == 512 * 2 * 3 * 2
        assert result.backward_passes == 0
        assert len(result.evaluation.returns) == 20
        assert not result.interrupted
        assert listener.folder == result.folder
        assert listener.steps[-1] == 512

    def test_never_overwritten(self, run):
        before = {p: p.read_bytes() for p in run[0].folder.path.rglob("*") if p.is_file()}
        with pytest.raises(RunExistsError, match="--resume"):
            train(CONFIG, run[0].folder.path)
        assert {p: p.read_bytes() for p in before} == before

    def test_default_name(self, tmp_path):
        config = dataclasses.replace(CONFIG, env="nprobot/ArmReach-v0")
        first = default_path(config, tmp_path)
        assert first.parent == tmp_path
        assert first.name.startswith("nprobot_ArmReach-v0-ppo-danp-3-")
        first.mkdir()
        assert default_path(config, tmp_path) != first

    def test_damaged_config(self, copy):
        (copy / "config.json").write_text("{")
        with pytest.raises(DamagedRunError):
            RunFolder.open(copy)
        (copy / "config.json").write_text('{"format": "nprobot-run", "version": 99}')
        with pytest.raises(NewerRunError, match="version 99"):
            RunFolder.open(copy)
        (copy / "config.json").write_text('{"format": "nprobot-fit", "version": 1}')
        with pytest.raises(ForeignRunError, match="nprobot-fit"):
            RunFolder.open(copy)


def weights(result):
    return [a for o in result.policy.operations for _, a in sorted(o.arrays.items())]


def test_same_seed_same_policy_however_often_it_is_looked_at(run, tmp_path):
    watched = dataclasses.replace(CONFIG, evaluate_every=128, checkpoint_every=128)
    again = train(watched, tmp_path / "again")
    assert again.evaluation == run[0].evaluation
    for a, b in zip(weights(again), weights(run[0]), strict=True):
        assert (a == b).all()


def test_another_seed_another_policy(run, tmp_path):
    other = train(dataclasses.replace(CONFIG, seed=4), tmp_path / "other")
    assert not np.allclose(weights(other)[1], weights(run[0])[1])


class TestResume:
    def test_goes_on_in_the_same_folder(self, copy):
        first = RunFolder.open(copy).config
        result = resume(copy, dataclasses.replace(first, steps=1024))
        assert result.steps == 1024
        assert result.forward_passes == 1024 * 2 * 3 * 2
        rows = read_table(result.folder.progress)
        steps = column(rows, STEPS)[0]
        assert steps == sorted(steps)
        assert column(rows, "rollout/ep_rew_mean")[0] == list(range(128, 1025, 128))
        written = json.loads((copy / "config.json").read_text())
        assert [s["from_step"] for s in written["sessions"]] == [0, 512]
        assert written["config"]["steps"] == 1024
        assert numbered(copy / "checkpoints")[0].name == "step_000001024"

    def test_from_an_earlier_checkpoint_drops_the_lost_rows(self, copy):
        shutil.rmtree(copy / "checkpoints" / "step_000000512")
        assert numbered(copy / "checkpoints")[0].name == "step_000000256"
        result = resume(copy)
        assert result.steps == 512
        rows = column(read_table(result.folder.progress), "rollout/ep_rew_mean")[0]
        assert rows == [128, 256, 384, 512]

    def test_nothing_is_lost_in_a_checkpoint(self, copy, tmp_path):
        checkpoint = numbered(copy / "checkpoints")[0]
        config = RunFolder.open(copy).config
        model = build_model(config, make_vector(config))
        before = parameters(model)
        load_checkpoint(checkpoint, model)
        assert not torch.equal(parameters(model), before)
        assert model.num_timesteps == 512
        assert model.env.obs_rms.count > 512
        saved = load_state(checkpoint / "training")
        assert saved.pop("run")["elapsed_seconds"] > 0
        save_state(tmp_path / "saved", saved)
        save_state(tmp_path / "restored", training_state(model))
        for kind in (".json", ".safetensors"):
            restored = (tmp_path / f"restored{kind}").read_bytes()
            assert restored == (tmp_path / f"saved{kind}").read_bytes()

    @pytest.mark.parametrize(
        "change", [{"rule": "np"}, {"samples": 3}, {"learning": LearningOptions(sigma=0.1)}]
    )
    def test_the_rest_stays_as_it_was(self, copy, change):
        config = dataclasses.replace(RunFolder.open(copy).config, steps=1024, **change)
        with pytest.raises(ConfigError, match="a resumed run keeps its"):
            resume(copy, config)

    def test_a_complete_run_says_how_to_go_on(self, copy):
        with pytest.raises(ConfigError, match="--steps 1024"):
            resume(copy)

    def test_no_run_and_no_checkpoint(self, copy, tmp_path):
        with pytest.raises(RunNotFoundError):
            resume(tmp_path / "nowhere")
        shutil.rmtree(copy / "checkpoints")
        listener = Listener()
        result = resume(copy, reporter=listener)
        assert any("starts from the beginning" in message for message in listener.messages)
        assert column(read_table(result.folder.progress), STEPS)[0] == [
            128,
            256,
            384,
            512,
            512,
            512,
        ]


def test_a_checkpoint_is_whole_or_not_there(copy, monkeypatch):
    config = dataclasses.replace(RunFolder.open(copy).config, steps=1024)

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_state", fail)
    before = sorted(p.name for p in (copy / "checkpoints").glob("step_*"))
    with pytest.raises(StorageError, match=r"at step 640: cannot write .*no space left.*--resume"):
        resume(copy, config)
    assert sorted(p.name for p in (copy / "checkpoints").glob("step_*")) == before
    assert (copy / "checkpoints" / "last").resolve().name == "step_000000512"
    monkeypatch.undo()
    assert resume(copy, config).steps == 1024
    assert not list((copy / "checkpoints").glob(".writing*"))


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
                if progress.steps == 256:
                    runs[0].stop_requested = True

        runs = []
        original = session.RunCallback

        def remember(*args):
            runs.append(original(*args))
            return runs[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "RunCallback", remember)
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


class TestBuild:
    def test_options_reach_the_algorithm(self):
        config = dataclasses.replace(
            CONFIG,
            rule="np",
            learning=LearningOptions(
                learning_rate=2e-3, lr_schedule="linear", sigma=0.02, noise="gaussian"
            ),
            network=NetworkOptions(hidden=(5,), activation="relu"),
            algorithm=AlgorithmOptions(n_steps=32, batch_size=16, clip_range=0.3, gamma=0.9),
        )
        env = make_vector(config)
        model = build_model(config, env)
        assert model.rule.name == "np"
        assert (model.rule.sigma, model.rule.samples, model.rule.noise) == (0.02, 2, "gaussian")
        assert (model.n_steps, model.batch_size, model.gamma) == (32, 16, 0.9)
        assert env.gamma == 0.9
        assert model.clip_range(1.0) == 0.3
        assert model.lr_schedule(0.5) == pytest.approx(1e-3)
        assert isinstance(model.policy.mlp_extractor.policy_net[1], torch.nn.ReLU)
        resolved = resolve(config, model)
        assert resolved.learning.lr_schedule == "linear"
        assert resolved.network == config.network
        assert resolved.algorithm.clip_range == 0.3

    def test_every_part_has_its_own_seed(self):
        env = make_vector(CONFIG)
        model = build_model(CONFIG, env)
        seeds = Seeds.spawn(CONFIG.seed)
        starts = [gymnasium.make(CONFIG.env).reset(seed=seeds.environments + i)[0] for i in (0, 1)]
        assert (env.venv.reset() == np.stack(starts)).all()
        assert model.rule.source.seed == seeds.rule

    def test_without_steps_a_run_goes_on_until_solved(self):
        config = dataclasses.replace(CONFIG, steps=None)
        resolved = resolve(config, build_model(config, make_vector(config)))
        assert resolved.stop_at == 950
        assert resolved.evaluate_every is not None
        assert resolved.steps is not None

    def test_first_rate_and_schedule_are_separate(self):
        constant = LearningOptions(learning_rate=0.5)
        for name, share in SCHEDULES.items():
            rates = learning_rates(constant, share)
            assert (rates(1.0), schedule_name(rates)) == (0.5, name)
            rates = learning_rates(LearningOptions(lr_schedule=name), lambda remaining: 0.1)
            assert (rates(1.0), schedule_name(rates)) == (pytest.approx(0.1), name)
        assert schedule_name(lambda remaining: remaining**3) is None

    @pytest.mark.parametrize("name", SCHEDULES)
    def test_schedules_start_at_one(self, name):
        assert SCHEDULES[name](1.0) == pytest.approx(1.0)
        assert SCHEDULES[name](0.0) == pytest.approx(float(name == "constant"))

    @pytest.mark.parametrize(
        ("choice", "observations", "rewards"),
        [(None, 1, 1), ("on", 1, 1), ("off", 0, 0), ("observations", 1, 0), ("rewards", 0, 1)],
    )
    def test_normalise(self, choice, observations, rewards):
        env = make_vector(dataclasses.replace(CONFIG, normalise=choice))
        assert (env.norm_obs, env.norm_reward) == (observations, rewards)


def test_table_takes_new_columns(tmp_path):
    file = tmp_path / "progress.csv"
    table = ProgressTable(file)
    table.write({STEPS: 1, "b": 0.5}, {})
    table.write({STEPS: 2, "a": 7, "hidden": 1}, {"hidden": ("csv",)})
    table.write({STEPS: 3, "b": 1.5}, {})
    with file.open() as stream:
        assert list(csv.reader(stream)) == [
            [STEPS, "a", "b"],
            ["1", "", "0.5"],
            ["2", "7", ""],
            ["3", "", "1.5"],
        ]
    with file.open("a") as stream:
        stream.write("4,")  # torn
    ProgressTable(file, 2).write({STEPS: 3, "b": 2.5}, {})
    assert column(read_table(file), "b") == ([1, 3], [0.5, 2.5])


def test_a_default_that_is_written_out_is_the_same_to_the_last_digit():
    """Or a run from its `config.json` would drift away from the run that wrote it."""
    default = LinearSchedule(3e-3, 0.0, 1.0)
    silent = learning_rates(LearningOptions(), default)
    written = learning_rates(LearningOptions(learning_rate=3e-3, lr_schedule="linear"), default)
    assert all(silent(i / 977) == written(i / 977) for i in range(978))
