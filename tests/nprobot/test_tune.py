"""The tuner: what it tries, what it gives up, how it continues, and what it refuses."""

import json
import math
import sys

import pytest

from nprobot import defaults
from nprobot.cli import main
from nprobot.errors import (
    ConfigError,
    EnvironmentFailedError,
    FileError,
    MissingPackageError,
    NonFiniteError,
    RunFailedError,
    UnknownNameError,
)
from nprobot.tuning import study
from nprobot.tuning.config import FRESH, TuneConfig
from nprobot.tuning.space import SPACES, Choice, Range, parameters, point
from nprobot.tuning.study import JOURNAL, TrainingRuns, open_study, search

pytest.importorskip("optuna")

GENERAL = {
    **{"learning_rate": 3e-4, "lr_schedule": "constant", "batch_size": 64, "n_epochs": 10},
    **{"gamma": 0.99, "gae_lambda": 0.95, "sigma": 1e-3, "decorrelation_lr": 1e-3},
}


@pytest.fixture(autouse=True)
def _nothing_is_synced(monkeypatch):
    """No test here is about a machine that loses its power, and disks are slow."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


class Fake:
    """Settings are worth the more, the nearer the learning rate is to 3e-3; a run costs nothing."""

    def __init__(self, config, die_at=None, fail=lambda settings: False):
        self.config, self.die_at, self.fail = config, die_at, fail
        self.calls = []
        self.steps = 0

    def defaults(self):
        return GENERAL

    def __call__(self, settings, seed, on_return):
        self.calls.append((dict(settings), seed))
        if len(self.calls) == self.die_at:
            raise KeyboardInterrupt
        if self.fail(settings):
            raise NonFiniteError("the loss is nan")
        rate = settings.get("learning_rate", GENERAL["learning_rate"])
        value = -abs(math.log10(rate / 3e-3)) + 1e-3 * (seed % 7)
        parts = self.config.evaluations + 1
        for part in range(1, parts):
            self.steps += self.config.steps // parts
            on_return(part * self.config.steps // parts, value - 1 / part)
        self.steps += self.config.steps // parts
        return value


class Quiet:
    def __init__(self):
        self.texts, self.done = [], []

    def progress(self, progress):
        self.done.append((progress.done, progress.total))

    def message(self, text):
        self.texts.append(text)


def config(**changes):
    given = {
        "rule": ("danp",),
        "trials": 7,
        "steps": 300,
        "seeds": 2,
        "fresh_seeds": 2,
        "evaluations": 2,
    }
    return TuneConfig(**{**given, **changes})


class TestSearch:
    def test_finds_better_settings_than_the_general_ones(self, tmp_path):
        asked = config()
        fake, news = Fake(asked), Quiet()
        outcome = search(asked, tmp_path, fake, news)
        assert outcome.search["trials"] == 7
        assert outcome.score.better
        assert outcome.search["return_in_search"] > -abs(math.log10(0.1))
        assert set(outcome.settings) == {p.name for p in parameters("ppo", "danp")}
        assert news.done[-1] == (18, 18)

    def test_begins_with_the_general_defaults(self, tmp_path):
        fake = Fake(config())
        search(config(), tmp_path, fake, Quiet())
        assert fake.calls[:2] == [(GENERAL, 0), (GENERAL, 1)]

    def test_best_and_general_meet_on_seeds_that_no_trial_had(self, tmp_path):
        fake = Fake(config())
        outcome = search(config(), tmp_path, fake, Quiet())
        fresh = [FRESH, FRESH + 1]
        assert [seed for _, seed in fake.calls[-4:]] == [*fresh, *fresh]
        assert all(given == outcome.settings for given, _ in fake.calls[-4:-2])
        assert all(given == {} for given, _ in fake.calls[-2:])
        assert {seed for _, seed in fake.calls[:-4]} == {0, 1}

    def test_gives_up_what_falls_behind(self, tmp_path):
        fake = Fake(config())
        outcome = search(config(), tmp_path, fake, Quiet())
        assert outcome.search["pruned"] > 0
        assert len(fake.calls) < 18
        assert outcome.search["environment_steps"] < 18 * 300

    def test_every_rule_has_the_same_budget(self, tmp_path):
        """Without giving up, backprop and perturbation train exactly as often."""
        steps = {}
        for rule in ("danp", "np", "bp"):
            asked = config(rule=(rule,), evaluations=0, trials=4)
            fake = Fake(asked)
            outcome = search(asked, tmp_path / rule, fake, Quiet())
            steps[rule] = outcome.search["environment_steps"], len(fake.calls)
        assert len(set(steps.values())) == 1

    def test_same_seed_same_search(self, tmp_path):
        asked = config()
        one, other, third = (Fake(asked) for _ in range(3))
        search(asked, tmp_path / "a", one, Quiet())
        search(asked, tmp_path / "b", other, Quiet())
        search(config(seed=1), tmp_path / "c", third, Quiet())
        assert one.calls == other.calls != third.calls

    @pytest.mark.parametrize("die_at", [2, 7, -1])
    def test_goes_on_where_it_was_cut_off(self, die_at, tmp_path):
        asked = config()
        whole = Fake(asked)
        expected = search(asked, tmp_path / "whole", whole, Quiet())
        die_at %= len(whole.calls)
        cut, rest, news = Fake(asked, die_at=die_at), Fake(asked), Quiet()
        with pytest.raises(KeyboardInterrupt):
            search(asked, tmp_path / "cut", cut, Quiet())
        outcome = search(asked, tmp_path / "cut", rest, news)
        assert outcome.settings == expected.settings
        assert outcome.score == expected.score
        assert outcome.search["trials"] == expected.search["trials"]
        again = len(cut.calls) + len(rest.calls) - len(whole.calls)
        assert 1 <= again <= asked.seeds  # the trial at hand, from its beginning

    def test_goes_on_with_more_trials(self, tmp_path):
        search(config(trials=2), tmp_path, Fake(config()), Quiet())
        fake = Fake(config())
        assert search(config(trials=3), tmp_path, fake, Quiet()).search["trials"] == 3
        assert len(fake.calls) <= 2 + 4

    def test_a_finished_search_only_tells_again(self, tmp_path):
        first = search(config(), tmp_path, Fake(config()), Quiet())
        fake = Fake(config())
        assert search(config(), tmp_path, fake, Quiet()) == first
        assert fake.calls == []

    def test_a_trial_that_fails_is_not_the_end(self, tmp_path):
        fake = Fake(config(), fail=lambda settings: settings.get("learning_rate", 0) > 1e-3)
        news = Quiet()
        outcome = search(config(), tmp_path, fake, news)
        assert outcome.settings["learning_rate"] <= 1e-3
        assert any("failed: the loss is nan" in text for text in news.texts)

    def test_nothing_learns(self, tmp_path):
        fake = Fake(config(), fail=lambda settings: True)
        with pytest.raises(RunFailedError, match="none of 7 trials"):
            search(config(), tmp_path, fake, Quiet())

    def test_a_return_that_is_no_number_is_a_failure(self, tmp_path):
        class Nan(Fake):
            def __call__(self, settings, seed, on_return):
                return math.nan

        with pytest.raises(RunFailedError, match="none of"):
            search(config(trials=2), tmp_path, Nan(config()), Quiet())

    @pytest.mark.parametrize("error", [EnvironmentFailedError("it died"), OSError("disk full")])
    def test_a_failure_that_is_not_the_settings_fault_ends_the_search(self, error, tmp_path):
        class Broken(Fake):
            def __call__(self, settings, seed, on_return):
                if len(self.calls) == 4:
                    raise error
                return super().__call__(settings, seed, on_return)

        with pytest.raises(RunFailedError, match=str(error)):
            search(config(), tmp_path, Broken(config()), Quiet())
        whole = search(config(), tmp_path / "whole", Fake(config()), Quiet())
        assert search(config(), tmp_path, Fake(config()), Quiet()).settings == whole.settings


class TestRefusals:
    def test_another_search_in_the_folder(self, tmp_path):
        search(config(trials=2), tmp_path, Fake(config()), Quiet())
        for other in (config(steps=600), config(env="Reacher-v5"), config(rule=("bp",))):
            with pytest.raises(FileError, match=r"another search|other settings"):
                search(other, tmp_path, Fake(config()), Quiet())

    @pytest.mark.parametrize("text", ["hello", '{"op_code": 77}\n', "[1]\n", '{"op_code": 0}\n'])
    def test_a_journal_that_is_none(self, text, tmp_path):
        (tmp_path / JOURNAL).write_text(text)
        with pytest.raises(FileError, match="cannot be read"):
            open_study(config(), tmp_path)

    def test_without_optuna(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(MissingPackageError, match=r"pip install 'nprobot\[tune\]'"):
            open_study(config(), tmp_path)
        assert main(["tune", "--out", str(tmp_path / "x")]) == 2
        assert "nprobot[tune]" in capsys.readouterr().err
        assert not (tmp_path / "x").exists()

    @pytest.mark.parametrize(
        "changes",
        [
            *({name: 0} for name in ("trials", "steps", "seeds", "fresh_seeds")),
            *({"evaluations": n} for n in (-1, 300)),
            *({"seed": -1}, {"seeds": FRESH + 1}, {"rule": ("bp", "bp")}),
            {"samples": 0},
        ],
    )
    def test_numbers_that_are_not_allowed(self, changes):
        with pytest.raises(ConfigError):
            config(**changes)

    @pytest.mark.parametrize("changes", [{"algo": "pop"}, {"rule": ("dnap",)}])
    def test_names_that_do_not_exist(self, changes):
        with pytest.raises(UnknownNameError, match="did you mean"):
            config(**changes)


class TestSpace:
    def test_perturbation_and_backprop_search_the_same_but_for_the_noise(self):
        bp, np, danp = (parameters("ppo", rule) for rule in ("bp", "np", "danp"))
        assert np[: len(bp)] == danp[: len(bp)] == bp
        assert [p.name for p in np[len(bp) :]] == ["sigma"]
        assert [p.name for p in danp[len(bp) :]] == ["sigma", "decorrelation_lr"]

    @pytest.mark.parametrize(
        ("algo", "rule"), [*((algo, "danp") for algo in SPACES), ("ppo", "bp")]
    )
    def test_holds_the_general_defaults(self, algo, rule, tmp_path):
        asked = config(algo=algo, rule=(rule,))
        values = TrainingRuns(asked, tmp_path).defaults()
        space = parameters(algo, rule)
        assert point(space, values) == {p.name: values[p.name] for p in space}

    def test_the_rule_is_the_default_of_the_algorithm(self):
        assert TuneConfig().rule == ("np+feedback",)
        assert TuneConfig(algo="nrl").rule == ("danp",)

    def test_nearest(self):
        assert Range("x", 0.1, 1.0).nearest(7) == 1.0
        assert Choice("x", (64, 128)).nearest(100) == 128
        assert Choice("x", ("a", "b")).nearest("c") == "a"
        with pytest.raises(ConfigError, match="say nothing of gamma"):
            point(parameters("ppo", "bp"), {**GENERAL, "gamma": None})


class TestTraining:
    def test_a_run_tells_its_evaluations_and_leaves_nothing(self, tmp_path):
        asked = config(steps=512, evaluations=1, samples=1)
        told = []
        settings = {"n_steps": 16, "hidden": (4,), "batch_size": 64}
        value = TrainingRuns(asked, tmp_path)(
            settings, 3, lambda steps, value: told.append((steps, value))
        )
        assert math.isfinite(value)
        assert [steps for steps, _ in told] == [256]
        assert list(tmp_path.iterdir()) == []

    def test_who_gives_up_ends_the_run(self, tmp_path):
        class Enough(Exception):
            pass

        def give_up(steps, value):
            raise Enough

        asked = config(steps=512, evaluations=1, samples=1)
        with pytest.raises(Enough):
            TrainingRuns(asked, tmp_path)(
                {"n_steps": 16, "hidden": (4,), "batch_size": 64}, 0, give_up
            )
        assert list(tmp_path.iterdir()) == []


class TestCommandLine:
    ARGUMENTS = (
        *("tune", "--env", "Reacher-v5", "--rule", "danp", "bp", "--samples", "4"),
        *("--trials", "5", "--steps", "300", "--seeds", "1", "--fresh-seeds", "2"),
    )

    @pytest.fixture(autouse=True)
    def _fake(self, monkeypatch):
        monkeypatch.setattr(study, "TrainingRuns", lambda c, folder: Fake(c))

    def test_prints_and_writes_what_train_takes(self, tmp_path, capsys):
        out = tmp_path / "search"
        assert main([*self.ARGUMENTS, "--out", str(out)]) == 0
        text = capsys.readouterr().out
        assert "for each at most 5 trials of 1 runs and 4 runs on fresh seeds" in text
        assert "2,700 environment steps" in text
        file = out / "Reacher-v5.toml"
        assert f"Next: nprobot train --env Reacher-v5 --algo ppo --rule danp --defaults {file}" in (
            text
        )
        other, tuned = defaults.load(file)
        assert (other.rule, tuned.rule) == ("bp", "danp")
        assert tuned.settings["samples"] == 4
        assert tuned.score.seeds == (FRESH, FRESH + 1)
        assert tuned.score.command == (
            "nprobot train --env Reacher-v5 --algo ppo --rule danp --steps 300 --seed 1000"
        )
        assert tuned.search["command"] == "nprobot " + " ".join(self.ARGUMENTS)
        assert tuned.search["trials"] == 5
        assert "samples" not in other.settings
        assert "sigma" not in other.settings
        assert other.search["command"] == tuned.search["command"]

    def test_the_flag_of_earlier_versions_names_rules_with_feedback(self, tmp_path, capsys):
        """Backprop in the same command is searched without."""
        out = tmp_path / "search"
        arguments = ["tune", "--env", "Reacher-v5", "--rule", "np", "bp"]
        rest = ["--feedback", "--trials", "2", "--steps", "30", "--fresh-seeds", "1"]
        assert main([*arguments, *rest, "--out", str(out)]) == 0
        said = capsys.readouterr()
        assert "--rule np+feedback" in said.err
        assert "NP + feedback, BP; for each" in said.out
        bp, tuned = defaults.load(out / "Reacher-v5.toml")
        assert (bp.rule, tuned.rule) == ("bp", "np+feedback")
        assert tuned.score.command.endswith("--rule np+feedback --steps 30 --seed 1000")

    def test_the_same_command_continues(self, tmp_path, capsys):
        arguments = [*self.ARGUMENTS, "--out", str(tmp_path / "search")]
        assert main(arguments) == 0
        first = capsys.readouterr().out
        assert main(arguments) == 0
        second = capsys.readouterr().out
        assert "continuing after 9 of 9 runs" in second
        assert first.splitlines()[-1] == second.splitlines()[-1]

    def test_ctrl_c_says_how_to_continue(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(study, "TrainingRuns", lambda c, folder: Fake(c, die_at=3))
        arguments = [*self.ARGUMENTS, "--out", str(tmp_path / "search")]
        assert main(arguments) == 130
        assert f"continue: nprobot {' '.join(arguments)}" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--env", "Reachr-v5"], "did you mean"),
            (["--rule", "dnap"], "or danp?"),
            (["--algo", "pp"], "did you mean ppo"),
            (["--trials", "0"], "trials must be 1 or more"),
            (["--feedback", "--rule", "danp"], "feedback is for np, inp, dnp, dinp, not"),
            (["--env", "CartPole-v1", "--algo", "sac"], "takes continuous actions"),
        ],
    )
    def test_mistakes_cost_nothing(self, arguments, message, tmp_path, capsys):
        assert main(["tune", *arguments, "--out", str(tmp_path / "x")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x").exists()

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path, capsys):
        (tmp_path / "diary.txt").write_text("dear diary")
        assert main([*self.ARGUMENTS, "--out", str(tmp_path)]) == 2
        assert "holds something else" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]
        assert main([*self.ARGUMENTS, "--out", str(tmp_path / "diary.txt")]) == 2
        assert "is a file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_search(tmp_path, capsys):
    arguments = [
        *("tune", "--samples", "1", "--trials", "3", "--steps", "2048", "--seeds", "1"),
        *("--fresh-seeds", "1", "--evaluations", "1", "--out", str(tmp_path / "search")),
    ]
    assert main(arguments) == 0
    file = tmp_path / "search" / "InvertedPendulum-v5.toml"
    (tuned,) = defaults.load(file)
    capsys.readouterr()
    run = ["train", "--defaults", str(file), "--steps", "2048", "--seed", str(FRESH)]
    assert main([*run, "--out", str(tmp_path / "run")]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["return_mean"] == pytest.approx(tuned.score.tuned[0])
