"""Suites: what a file may say, what it is refused for, and which runs come out of it."""

from __future__ import annotations

import pytest

from nprobot.benchmark.methods import RunSpec
from nprobot.benchmark.suite import SHIPPED, load, parse
from nprobot.errors import ConfigError, UnknownNameError

TASK = '[[tasks]]\nenv = "Reacher-v5"\nsteps = 1000\n'
LEARNER = '[[learners]]\nname = "BP"\nalgo = "ppo"\nrule = "bp"\n'


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_suite_loads_and_has_anchors(name):
    suite = load(name)
    tasks = {(run.env, run.actuators, run.steps) for run in suite.runs}
    for task in tasks:
        here = [r for r in suite.runs if (r.env, r.actuators, r.steps) == task]
        assert any(run.rule == "bp" for run in here), task
        assert any(run.algo == "random" for run in here), task
    assert len({run.key for run in suite.runs}) == len(suite.runs)
    assert set(suite.sources) == {run.learner for run in suite.runs}


def test_core_is_what_was_promised():
    suite = load("core")
    envs = list(dict.fromkeys(run.env for run in suite.runs))
    assert envs == [
        "InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Swimmer-v5",
        "Hopper-v5", "HalfCheetah-v5", "nprobot/ArmReach-v0",
    ]  # fmt: skip
    for rule in ("np", "dnp", "anp", "danp"):
        for samples in (1, 8):
            runs = [r for r in suite.runs if r.rule == rule and r.samples == samples]
            assert {r.seed for r in runs} == set(range(5))
            assert {r.env for r in runs} == set(envs)


@pytest.mark.parametrize("name", ["core", "full", "actuators", "regression"])
def test_every_hyperparameter_of_a_shipped_suite_has_a_source(name):
    assert "not given" not in load(name).sources.values()


def test_every_cell_gets_one_seed_before_any_gets_two():
    seeds = [run.seed for run in load("core").runs]
    assert seeds == sorted(seeds)


def test_rules_and_samples_multiply_and_are_named():
    text = TASK + '[[learners]]\nalgo = "ppo"\nrule = ["bp", "np", "danp"]\nsamples = [1, 8]\n'
    runs = parse(text, "t").runs
    assert [run.learner for run in runs] == [
        "BP", "NP, K = 1", "NP, K = 8", "DANP, K = 1", "DANP, K = 8",
    ]  # fmt: skip
    assert [run.samples for run in runs] == [None, 1, 8, 1, 8]


def test_what_earlier_versions_wrote_is_understood():
    text = 'hardware = ["servo"]\n' + TASK + '[[learners]]\nalgo = "ppo"\nrule = ["np", "dnp"]\n'
    runs = parse(text + "settings = { feedback = true, sigma = 0.1 }", "t").runs
    assert [run.learner for run in runs] == ["NP + feedback, K = 1", "DNP + feedback, K = 1"]
    assert [run.rule for run in runs] == ["np+feedback", "dnp+feedback"]
    assert {run.actuators for run in runs} == {"servo"}
    assert all(run.settings == {"sigma": 0.1} for run in runs)
    assert load("hardware") == load("actuators")


def test_settings_of_one_environment_override():
    extra = '[learners.where."Reacher-v5"]\nlearning_rate = 0.5\nhidden = [7]\n'
    text = TASK + LEARNER + "settings = { learning_rate = 0.1, gamma = 0.9 }\n" + extra
    (run,) = parse(text, "t").runs
    assert run.settings == {"learning_rate": 0.5, "gamma": 0.9}
    assert run.hidden == (7,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = 3", "tasks must be"),
        (LEARNER, "tasks is missing"),
        ("sedes = 3\n" + TASK + LEARNER, "unknown option 'sedes'; did you mean seeds"),
        (TASK.replace("steps", "stops") + LEARNER, r"tasks\[1\]: steps is missing"),
        (TASK + "env_kwargs = 3\n" + LEARNER, r"tasks\[1\]: unknown option 'env_kwargs'"),
        (TASK.replace("1000", "0") + LEARNER, r"tasks\[1\]: steps must be 1 or more"),
        (TASK + LEARNER.replace('"ppo"', '"pppo"'), r"learners\[1\]: .* did you mean ppo"),
        (TASK + LEARNER.replace('"bp"', '"dnap"'), r"learners\[1\]: .* danp"),
        (TASK + LEARNER.replace('rule = "bp"\n', ""), "'ppo' needs a rule"),
        (TASK + LEARNER + "settings = { lr = 1.0 }", r"learners\[1\]: unknown setting 'lr'"),
        (TASK + LEARNER + 'settings = { gamma = "x" }', r"learners\[1\]: gamma must be a number"),
        (TASK + LEARNER + 'settings = { hidden = "x" }', "hidden"),
        (TASK + LEARNER + 'settings = { normalise = "x" }', "unknown normalise 'x'"),
        ('hardware = "servos"\n' + TASK + LEARNER, "did you mean servo"),
        (TASK + LEARNER + LEARNER, "two are called 'BP'"),
        (TASK + LEARNER + 'only = ["Hopper-v5"]', "name 'Hopper-v5', which no task has"),
        ("seeds = [0, -1]\n" + TASK + LEARNER, "seeds must be"),
        ("[[tasks", "not a TOML file"),
    ],
)
def test_a_bad_file_is_refused_with_the_key_and_what_is_allowed(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text, "mine.toml")


def test_a_file_is_known_by_its_name_and_not_by_where_it_lies(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TASK + LEARNER)
    suite = load(str(path))
    assert suite.name == "mine.toml"
    assert str(tmp_path) not in suite.runs[0].command(suite.name)


def test_filters_select_and_refuse_what_is_not_there():
    suite = load("core")
    some = suite.select(env=["Reacher"], rule=["danp"], seeds=[7], steps=500)
    assert [(r.env, r.learner, r.seed, r.steps) for r in some.runs] == [
        ("Reacher-v5", "DANP, K = 8", 7, 500),
        ("Reacher-v5", "DANP, K = 1", 7, 500),
    ]
    assert {r.env for r in suite.select(env=["ArmReach"]).runs} == {"nprobot/ArmReach-v0"}
    for filters in ({"env": ["Reecher"]}, {"learner": ["DANP"]}, {"rule": ["dinp"]}):
        with pytest.raises(UnknownNameError):
            suite.select(**filters)
    with pytest.raises(UnknownNameError, match="did you mean smoke"):
        load("smke")


def test_a_key_stands_for_a_run_and_survives_a_round_trip():
    runs = load("smoke").runs
    again = [RunSpec.from_dict(run.to_dict()) for run in runs]
    assert [run.key for run in again] == [run.key for run in runs]
    changed = RunSpec.from_dict(runs[0].to_dict() | {"steps": 1})
    assert changed.key != runs[0].key
