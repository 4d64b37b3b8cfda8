"""Tuned settings: files that are checked, found by `train`, and never stronger than the user."""

import dataclasses
import importlib
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nprobot import benchmark, defaults
from nprobot.cli import main
from nprobot.cli.arguments import parse
from nprobot.cli.bench import Bench
from nprobot.cli.train import Train, with_defaults
from nprobot.defaults import TunedDefaults, TunedScore, file_name
from nprobot.defaults.settings import TUNABLE
from nprobot.errors import ConfigError, UnknownNameError
from nprobot.training.run_config import AlgorithmOptions, LearningOptions, RunConfig

REPOSITORY = Path(__file__).parents[3]
KNOWN = defaults.known()
SCORE = TunedScore(
    steps=256,
    episodes=20,
    seeds=(1000, 1001),
    tuned=(-5.0, -6.0),
    general=(-9.0, -8.5),
    command="nprobot train --env Reacher-v5 --steps 256 --seed 1000",
)
TUNED = TunedDefaults(
    env="Reacher-v5",
    algo="ppo",
    rule="danp",
    settings={
        "samples": 3,
        "learning_rate": 2e-3,
        "lr_schedule": "linear",
        "hidden": (16, 8),
        "n_steps": 32,
    },
    score=SCORE,
    search={"command": 'nprobot tune "--env" Reacher-v5 \\ é', "trials": 8, "versions": {"a": "1"}},
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Tables of the package are looked for in an empty folder."""
    monkeypatch.setattr("nprobot.defaults.settings.ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def installed(elsewhere):
    defaults.save(TUNED, elsewhere / file_name("Reacher-v5"))


def name_of(tuned):
    return f"{tuned.env} {tuned.algo} {tuned.rule}"


class TestTablesOfThePackage:
    @pytest.mark.parametrize("tuned", KNOWN, ids=name_of)
    def test_is_found_and_worth_it(self, tuned):
        assert defaults.find(tuned.env, tuned.algo, tuned.rule) == tuned
        assert statistics.fmean(tuned.score.tuned) >= statistics.fmean(tuned.score.general)
        assert not {*tuned.score.seeds} & {*tuned.search["seeds"]}, "judged on seeds of the search"

    @pytest.mark.parametrize("tuned", KNOWN, ids=name_of)
    def test_says_more_than_the_general_defaults(self, tuned):
        general = RunConfig(env=tuned.env, algo=tuned.algo, rule=tuned.rule)
        assert general.with_options(tuned.settings).resolved() != general.resolved()

    def test_the_default_learner_leaves_known_settings_only_for_what_clearly_holds(self):
        for tuned in KNOWN:
            if tuned.rule == "np+feedback":
                gain = statistics.fmean(tuned.score.tuned) - statistics.fmean(tuned.score.general)
                both = tuned.score.tuned, tuned.score.general
                assert gain > max(max(returns) - min(returns) for returns in both), name_of(tuned)

    @pytest.mark.parametrize("tuned", KNOWN, ids=name_of)
    def test_commands_are_commands(self, tuned):
        program, command, *arguments = shlex.split(tuned.score.command)
        assert program == "nprobot"
        if command == "train":
            run = parse(Train, arguments, "train", "").run
            assert (run.env, run.algo, run.rule) == (tuned.env, tuned.algo, tuned.rule)
            assert run.steps == tuned.score.steps
            assert run.seed == tuned.score.seeds[0]
            own = run.flat()
            settings = defaults.fill(RunConfig(algo=tuned.algo, rule=tuned.rule), tuned.settings)[1]
            assert {name: own[name] for name in settings} == settings
        else:
            assert command == "bench"
            self.check_benchmark(tuned, arguments)
        program, command, *arguments = shlex.split(tuned.search["command"])
        if program == "python":
            assert command == "-m"
            assert (REPOSITORY / f"{arguments[0].replace('.', '/')}.py").is_file()
        elif command != "tune":
            assert (REPOSITORY / arguments[0]).is_file()

    def check_benchmark(self, tuned, arguments):
        """A suite of this repository has the runs that the score is of."""
        asked = parse(Bench, arguments, "bench", "")
        file = REPOSITORY / asked.suite
        own = [
            run
            for run in benchmark.load(str(file) if file.is_file() else asked.suite).runs
            if run.env in asked.env and run.learner in asked.learner
            if not asked.seeds or run.seed in asked.seeds
        ]
        assert {run.seed for run in own} == {*tuned.score.seeds}
        for run in own:
            assert (run.algo, run.rule) == (tuned.algo, tuned.rule)
            assert run.steps == tuned.score.steps
            for name in ("learning_rate", "lr_schedule", "batch_size"):
                assert run.settings[name] == tuned.settings[name]

    def test_rules_of_a_task_were_searched_alike(self):
        budgets = {}
        for tuned in KNOWN:
            budgets.setdefault((tuned.env, tuned.algo), set()).add(
                (
                    tuned.search["environment_steps"],
                    tuned.search["trials"],
                    len(tuned.search["seeds"]),
                )
            )
        assert budgets
        assert all(len(own) == 1 for own in budgets.values()), budgets


class TestFiles:
    def test_what_is_written_is_read(self, tmp_path):
        file = defaults.save(TUNED, tmp_path / "new" / "tuned.toml")
        read = dataclasses.replace(TUNED, settings={**TUNED.settings, "hidden": [16, 8]})
        assert defaults.load(file) == [read]
        assert [path.name for path in file.parent.iterdir()] == ["tuned.toml"]

    def test_a_table_holds_an_entry_for_each_algorithm_and_rule(self, tmp_path):
        other = dataclasses.replace(TUNED, rule="np+feedback", settings={"sigma": 0.1})
        newer = dataclasses.replace(other, settings={"sigma": 0.2})
        for tuned in (TUNED, other, newer):
            file = defaults.save(tuned, tmp_path / "tuned.toml")
        assert [(one.rule, one.settings.get("sigma")) for one in defaults.load(file)] == [
            ("danp", None),
            ("np+feedback", 0.2),
        ]
        with pytest.raises(ConfigError, match="is of Reacher-v5"):
            defaults.save(dataclasses.replace(TUNED, env="Hopper-v5"), file)

    def test_a_file_of_the_first_version_is_read(self, tmp_path):
        file = tmp_path / "Reacher-v5-ppo-np-feedback.toml"
        file.write_text(
            'format = "nprobot-defaults"\nversion = 1\nenv = "Reacher-v5"\nalgo = "ppo"\n'
            'rule = "np"\n[settings]\nsigma = 0.1\nfeedback = true\n[score]\nsteps = 256\n'
            'episodes = 20\nseeds = [3]\ntuned = [1.0]\ngeneral = [0]\ncommand = ""\n[search]\n'
        )
        (tuned,) = defaults.load(file)
        assert (tuned.algo, tuned.rule, tuned.settings) == ("ppo", "np+feedback", {"sigma": 0.1})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("[ppo.", "[pqo."), "unknown algorithm 'pqo'"),
            ((".danp.", ".dnap."), "or danp"),
            (("learning_rate = 0.002", "learning_rate = -1"), "learning_rate must be above 0"),
            (("learning_rate = 0.002", 'learning_rate = "fast"'), "must be a number"),
            (("learning_rate", "learning_rte"), "did you mean learning_rate"),
            (("learning_rate", "alignment_every"), "unknown setting"),
            (("n_steps = 32", "tau = 0.1"), "ppo has no option tau"),
            (("version = 2", "version = 3"), "format version 3"),
            (("nprobot-defaults", "other"), "no format"),
            (("tuned = [-5.0, -6.0]", "tuned = [-5.0]"), "for each seed"),
            (("tuned = [-5.0, -6.0]", "tuned = [-5.0, nan]"), "not finite"),
            ((".score]", ".scores]"), "did you mean score"),
            (('env = "', 'environment = "'), "it lacks 'env'"),
            (("steps = 256", "stops = 256"), "did you mean score.steps"),
            (("[ppo.danp.settings]", "[ppo.danp.settings"), "not a readable file"),
        ],
    )
    def test_files_that_cannot_be_used(self, change, message, tmp_path):
        file = defaults.save(TUNED, tmp_path / "tuned.toml")
        file.write_text(file.read_text().replace(*change))
        with pytest.raises(ConfigError, match=message) as caught:
            defaults.load(file)
        assert str(file) in str(caught.value)

    def test_missing(self, tmp_path):
        with pytest.raises(ConfigError, match="No such file"):
            defaults.load(tmp_path / "tuned.toml")

    def test_any_change_is_a_typed_error(self, tmp_path):
        file = defaults.save(TUNED, tmp_path / "tuned.toml")
        whole = file.read_bytes()

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.integers(0, len(whole) - 1), st.integers(0, 30), st.binary(max_size=30))
        def check(at, cut, insert):
            file.write_bytes(whole[:at] + insert + whole[at + cut :])
            try:
                entries = defaults.load(file)
            except ConfigError:
                return
            for tuned in entries:
                config = RunConfig(env=tuned.env, algo=tuned.algo, rule=tuned.rule)
                assert defaults.fill(config, tuned.settings)[1].keys() == tuned.settings.keys()

        check()

    def test_settings_are_checked_when_they_are_made(self):
        with pytest.raises(UnknownNameError, match="did you mean learning_rate"):
            dataclasses.replace(TUNED, settings={"learning_rat": 1e-3})
        with pytest.raises(ConfigError, match="samples must be 1 or more"):
            dataclasses.replace(TUNED, settings={"samples": 0})


class TestFill:
    def test_what_is_open_is_filled_and_what_is_given_stays(self):
        config = RunConfig(
            env="Reacher-v5",
            rule="danp",
            samples=1,
            learning=LearningOptions(learning_rate=1e-4, sigma=0.1),
        )
        filled, what = defaults.fill(config, TUNED.settings)
        assert what == {"lr_schedule": "linear", "hidden": (16, 8), "n_steps": 32}
        assert filled.samples == 1
        assert filled.learning == LearningOptions(
            learning_rate=1e-4, sigma=0.1, lr_schedule="linear"
        )
        assert filled.network.hidden == (16, 8)
        assert filled.algorithm == AlgorithmOptions(n_steps=32)

    def test_what_a_given_option_rules_out_stays_open(self):
        learns = dataclasses.replace(TUNED, algo="sac", settings={"ent_coef_start": 0.01})
        fixed = dataclasses.replace(learns, settings={"ent_coef": 0.1, "gamma": 0.9})
        for tuned, option in ((learns, {"ent_coef": 0.2}), (fixed, {"ent_coef_start": 0.2})):
            config = RunConfig(env="Reacher-v5", algo="sac", algorithm=AlgorithmOptions(**option))
            filled, what = defaults.fill(config, tuned.settings)
            assert what == {name: v for name, v in tuned.settings.items() if name == "gamma"}
            assert filled.algorithm == AlgorithmOptions(**option, **what)

    def test_every_option_that_can_be_tuned_can_be_left_open(self):
        flat = RunConfig().flat()
        assert all(flat[name] is None for name in TUNABLE)

    def test_choice(self, installed, elsewhere):
        config = RunConfig(env="Reacher-v5", rule="danp")
        assert defaults.find(config.env, config.algo, config.rule).score == SCORE
        assert defaults.choose("general", config) is None
        module = dataclasses.replace(config, env="gymnasium.envs:Reacher-v5")
        assert defaults.choose("tuned", module) is not None
        for other in ({"env": "Hopper-v5"}, {"rule": "dnp"}, {"algo": "sac"}):
            assert defaults.choose("tuned", dataclasses.replace(config, **other)) is None
        file = str(next(elsewhere.glob("*.toml")))
        assert defaults.choose(file, dataclasses.replace(config, env="Hopper-v5")) is not None
        with pytest.raises(ConfigError, match="of ppo with danp; this run is of ppo with np"):
            defaults.choose(file, dataclasses.replace(config, rule="np"))
        with pytest.raises(ConfigError, match="No such file"):
            defaults.choose("tunde", config)

    def test_many_environments_get_large_updates(self):
        open_ = defaults.choose("parallel", RunConfig())
        assert (open_["envs"], open_["n_steps"], open_["batch_size"]) == (1024, 24, 6144)
        few = defaults.choose("parallel", RunConfig(envs=8))
        assert few["n_steps"] * 8 == 4 * few["batch_size"] == 2048
        filled, _ = defaults.fill(RunConfig(envs=8), few)
        assert filled.envs == 8
        assert filled.resolved().algorithm.n_epochs == 5
        with pytest.raises(ConfigError, match="parallel is for ppo; sac has no settings"):
            defaults.choose("parallel", RunConfig(algo="sac"))

    def test_names_of_files(self):
        assert file_name("nprobot/ArmReach-v0") == "nprobot_ArmReach-v0.toml"
        assert file_name("a.b:C-v1") == "C-v1.toml"


class TestCommandLine:
    TRAIN = (
        *(
            "train",
            "--env",
            "Reacher-v5",
            "--rule",
            "danp",
            "--steps",
            "256",
            "--envs",
            "2",
            "--batch-size",
            "32",
        ),
        *("--checkpoint-every", "256"),
    )

    def test_train_takes_tuned_settings_by_default(self, installed, tmp_path, capsys):
        given = [*self.TRAIN, "--samples", "1"]
        assert main([*given, "--out", str(tmp_path / "run")]) == 0
        out = capsys.readouterr().out
        assert "Tuned settings: learning_rate 0.002, lr_schedule linear, hidden" in out
        assert "--defaults general does without" in out
        config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
        assert config["learning"]["learning_rate"] == 2e-3
        assert config["network"]["hidden"] == [16, 8]
        assert config["algorithm"]["n_steps"] == 32
        assert config["samples"] == 1
        again = ["train", "--resume", str(tmp_path / "run"), "--defaults", "general"]
        assert main(again) == 2
        assert "leave --defaults away" in capsys.readouterr().err

    def test_general_defaults_are_one_option_away(self, installed):
        arguments = ["--env", "Reacher-v5", "--defaults", "general"]
        options = parse(Train, arguments, "train", "")
        assert with_defaults(options.run, options.defaults) == (options.run, "")

    def test_mistakes_are_one_line(self, installed, tmp_path, capsys):
        assert main([*self.TRAIN, "--defaults", "nowhere.toml", "--out", str(tmp_path / "r")]) == 2
        assert "nowhere.toml is not a readable file of settings" in capsys.readouterr().err
        assert not (tmp_path / "r").exists()

    def test_envs_shows_them(self, installed, capsys):
        assert main(["envs", "Reacher"]) == 0
        assert "ppo: danp" in capsys.readouterr().out
        assert main(["envs", "Reacher", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        (tuned,) = row["tuned"]
        assert tuned["settings"]["learning_rate"] == 2e-3
        assert tuned["return_mean"] == -5.5
        assert tuned["general_return_mean"] == -8.75
        assert tuned["command"] == SCORE.command


def test_importing_is_light():
    code = "import sys, nprobot.defaults; print({'torch', 'optuna', 'mujoco'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_table_on_the_page_is_that_of_the_package(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    script = importlib.import_module("scripts.experiments.control.tuned_defaults")
    page = (REPOSITORY / "docs" / "experiments" / "tuning.md").read_text("utf-8")
    assert "\n".join(script.table()) in page


@pytest.mark.slow
def test_a_score_can_be_had_again(tmp_path, capsys):
    """The return that an entry claims for its first seed, by the command that it gives.

    On another machine a run is another one, so of a task that is learned on every seed.
    """
    tuned = defaults.find("Pendulum-v1", "td3", "np+feedback")
    command = shlex.split(tuned.score.command)[1:]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    episodes = ["--episodes", str(tuned.score.episodes)]
    assert main(["evaluate", str(tmp_path / "run"), *episodes, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["return_mean"] == pytest.approx(tuned.score.tuned[0], abs=10)
