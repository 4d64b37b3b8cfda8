"""One message for every mistake: what happened, where, what to do; before anything is loaded."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import nprobot
from nprobot.cli import arguments, main
from nprobot.errors import ConfigError
from nprobot.runs.atomic_files import ERRORS, free_name, quoted
from nprobot.runs.interruption import exit_code, interruptible
from nprobot.user_code import import_named

from ..deploy.helpers import box, zero_policy

ROBOT = """
import gymnasium, numpy as np, pathlib
from gymnasium import spaces

class Robot(gymnasium.Env):
    dt = np.float32(0.01)
    metadata = {"render_fps": 20, "render_modes": []}
    observation_space = spaces.Box(-1, 1, (3,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, file=None, kind=None):
        if file:
            pathlib.Path(file).read_text()
        assert kind != "bad", "a kind that there is not"
        self.kind = kind

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3), {}

    def step(self, action):
        if self.kind == "breaks":
            raise KeyError("battery")
        return np.zeros(3), 0.0, False, False, {}

class Pictures(Robot):
    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)

class Parts(Robot):
    observation_space = spaces.Dict({"arm": spaces.Box(-1, 1, (3,))})

for cls in (Robot, Pictures, Parts):
    gymnasium.register(f"Own{cls.__name__}-v0", cls, max_episode_steps=20)
"""

SWING = """
import gymnasium, numpy as np, pathlib
from gymnasium.envs.mujoco import MujocoEnv

XML = str(pathlib.Path(__file__).with_name("swing.xml"))

class Swing(MujocoEnv):
    metadata = {"render_modes": ["rgb_array", "human", "depth_array", "rgbd_tuple"],
                "render_fps": 50}

    def __init__(self, frame_skip=2, **rest):
        space = gymnasium.spaces.Box(-9, 9, (2,), np.float64)
        super().__init__(XML, frame_skip, space, **rest)

    def reset_model(self):
        return np.zeros(2)

gymnasium.register("Swing-v0", Swing, max_episode_steps=5)
"""

SMALL = [
    *("--steps", "128", "--envs", "2", "--n-steps", "32", "--batch-size", "32", "--hidden", "8")
]


pytestmark = pytest.mark.filterwarnings("ignore:.*Overriding environment")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder, of a name with a space, with a robot of one's own and a table in it."""
    folder = tmp_path / "my work"
    folder.mkdir()
    (folder / "own_robot.py").write_text(ROBOT)
    (folder / "broken_robot.py").write_text("import numpy\n\nimport nowhere_to_be_found\n")
    (folder / "slip.py").write_text("def f(:\n")
    rows = "".join(f"{i},{i % 7},{i % 5}\n" for i in range(100))
    (folder / "log.csv").write_text("q,v,tau\n" + rows)
    (folder / "mesh.xml").write_text(
        '<mujoco><asset><mesh name="a" file="gone.stl"/></asset><worldbody><body>'
        '<joint/><geom type="mesh" mesh="a"/></body></worldbody></mujoco>'
    )
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    yield folder
    for name in ("own_robot", "broken_robot", "slip", "swing_robot"):
        sys.modules.pop(name, None)


CASES = [
    ("fit --data gone.csv --inputs q --targets tau", "There is no file gone.csv"),
    ("fit --data log.csv --inputs q zz --targets tau", "no column 'zz'.*'q', 'v', 'tau'"),
    ("fit --data log.csv", "Name at least one input"),
    ("fit --data . --inputs q", "--inputs does not belong"),
    ("fit --task-kwargs trian 5", "did you mean train"),
    ("fit --task inverse-dynamics --robot mesh.xml", r"gone\.stl"),
    ("fit --task inverse-dynamics --robot CartPole-v1", "does not run MuJoCo"),
    ("fit --task inverse-dynamics", "needs a robot"),
    ("fit --rule nowhere_at_all:mine", "no module 'nowhere_at_all'"),
    ("fit --device tpu", "unknown device 'tpu'"),
    ("export gone", "no policy at gone"),
    ("train --batch-size 1", "--batch-size must be 2 or more"),
    ("train --steps 1.5", "--steps takes a whole number, got '1.5'"),
    ("train --steps many", "--steps takes a whole number, got 'many'"),
    ("train --step 5", "unknown option '--step'; did you mean --steps or"),
    ("train walk", "'walk' belongs to no option"),
    ("train --noise gausian", "gaussian"),
    ("train --algo", "--algo"),
    ("deploy", "something is missing: A policy folder"),
    ("train --env own_robot:OwnPictures-v0", "CnnPolicy"),
    ("train --env own_robot:Robot", "registers OwnRobot-v0, OwnPictures-v0, OwnParts-v0"),
    ("train --env broken_robot:X", r"ModuleNotFoundError \(broken_robot.py, line 3\).*nowhere_to"),
    ("train --env slip:X", r"SyntaxError \(slip.py, line 1\)"),
    ("train --env nowhere_at_all:X", "no module 'nowhere_at_all', neither installed nor in "),
    ("train --env own_robot:OwnRobot-v0 --env-kwargs file gone.txt",
     r"FileNotFoundError \(own_robot.py, line 13\).*gone\.txt"),
    ("train --env own_robot:OwnRobot-v0 --env-kwargs kind bad",
     r"AssertionError \(own_robot.py, line 14\): a kind"),
    ("train --env own_robot:OwnRobot-v0 --env-kwargs color 3", 
     "takes no argument 'color'"),
    ("adapt zoo:Reacher --steps 6000", "give a calibration of 1200"),
    ("deploy zoo:Reacher --rate 30", "--any-rate"),
    ("deploy zoo:Reacher --episodes 0 --record film.mp4", "--episodes must be 1 or more"),
    ("deploy zoo:Reacher --film-size 9 9 --record film.mp4", "16 to 4096"),
    ("deploy zoo:Reacher --camera front", "name --record"),
    ("evaluate gone --record film.mp4", "no policy at gone"),
    ("bench --json smoke", "--json belongs to"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_a_mistake_costs_one_line_and_leaves_nothing(here, capsys, line, message):
    before = sorted(here.iterdir())
    command, *_ = words = shlex.split(line)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"nprobot {command}: error: ")
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err)
    assert not re.search(r"\w+=[…'\"]|\w\(\)|[a-z]_[a-z]+ (must|is)|typing|msgspec", captured.err)
    left = {path for path in here.iterdir() if path.name != "__pycache__"} - set(before)
    assert not left


@pytest.mark.parametrize(
    ("names", "words"),
    [({"trust"}, "say n_steps, trust (in Python: 'x')"), ({"n_steps"}, "say --n-steps, trust")],
)
def test_messages_have_the_options_of_their_command(monkeypatch, names, words):
    monkeypatch.setattr(arguments, "_NAMES", names)
    text = "say n_steps, trust (in Python: 'x')"
    assert arguments.as_flags(text).startswith(words)


def test_what_is_wrong_is_found_before_torch_is_loaded(here):
    slow = ("nowhere_at_all:mine", "deploy", "--camera", "bench", "walk")
    lines = [shlex.split(line) for line, _ in CASES if not any(word in line for word in slow)]
    code = (
        "import sys\nfrom nprobot.cli import main\n"
        f"for words in {lines!r}:\n"
        "    assert main(words) == 2\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=environment, cwd=here)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_variable_that_ends_mujoco_is_named(here, capsys, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    assert main(["envs"]) == 2
    assert "MUJOCO_GL is 'nonsense'" in capsys.readouterr().err


def test_numbers_are_taken_as_people_write_them(here, capsys):
    assert main(["train", "--steps", "1e5", "--env", "nothing-v0"]) == 2
    assert "unknown environment" in capsys.readouterr().err  # and no word of the steps
    from nprobot.cli.arguments import parse
    from nprobot.cli.train import Train

    for text in ("1e5", "100_000", "100000"):
        assert parse(Train, ["--steps", text], "train", "").run.steps == 100_000


def test_a_robot_in_the_folder_is_found_and_its_rate_said(here, capsys):
    words = ["train", "--env", "own_robot:OwnRobot-v0", *SMALL, "--out", "run 1"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "control rate 100 Hz, from its dt" in said
    assert "Next: nprobot evaluate 'run 1' --trust --record 'run 1/film.mp4'" in said
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "'run 1-2'" in error and "--resume 'run 1'" in error
    assert main(["export", "run 1", "--episodes", "2"]) == 0
    assert "nprobot deploy 'run 1/policy'" in capsys.readouterr().out
    assert main(["export", "run 1"]) == 2
    assert "'run 1/policy-2'" in capsys.readouterr().err


def test_a_rate_beside_a_fixed_frame_rate_is_one_line(here, capsys):
    (here / "swing.xml").write_text(
        "<mujoco><option timestep='0.01'/><worldbody><body><joint name='j' "
        "axis='0 1 0'/><geom size='.1'/></body></worldbody><actuator><motor joint='j' "
        "ctrllimited='true' ctrlrange='-1 1'/></actuator></mujoco>"
    )
    (here / "swing_robot.py").write_text(SWING)
    from nprobot.policies.files import policy_file

    policy_file.save(zero_policy("swing_robot:Swing-v0", 2, box(1), 50.0), here / "p")
    words = ["deploy", "p", "--trust", "--rate", "25", "--any-rate"]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(
        "not at 25 Hz: its metadata fix render_fps, so it runs at that rate alone"
    )


def test_a_failure_of_the_users_code_is_one_line_and_its_traceback_is_in_the_run(here, capsys):
    words = ["train", "--env", "own_robot:OwnRobot-v0", "--env-kwargs", "kind", "breaks", *SMALL]
    assert main([*words, "--out", "run"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "KeyError (own_robot.py, line 23): 'battery'" in error
    log = (here / "run" / ERRORS).read_text()
    assert "Traceback" in log and 'raise KeyError("battery")' in log
    assert main([*words, "--out", "again", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_error_of_nobodys_is_one_line_too(here, capsys, monkeypatch):
    from nprobot.cli import policies

    monkeypatch.setattr(policies, "describe", lambda name: [][1])
    assert main(["policies"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "IndexError (test_mistakes.py, line" in error
    assert "--debug shows where it comes from" in error


def test_modules_of_the_folder_come_last(here):
    (here / "json.py").write_text("raise RuntimeError('not this one')")
    (here / "mine.py").write_text("import json\nVALUE = json.dumps([1])")
    assert import_named("mine").VALUE == "[1]"
    with pytest.raises(ConfigError, match=r"'mine\.more'"):
        import_named("mine.more")
    sys.modules.pop("mine")


def test_files_are_not_written_over(here, capsys):
    for name in ("film.mp4", "flight.npz", "tables.md"):
        Path(name).write_text("precious")
    for words in (
        ["deploy", "zoo:Reacher", "--record", "film.mp4"],
        ["deploy", "zoo:Reacher", "--flight", "flight.npz"],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "--force replaces it" in error and "-2." in error
    assert all(Path(name).read_text() == "precious" for name in ("film.mp4", "flight.npz"))
    flight = ["deploy", "zoo:InvertedPendulum", "--flight", "flight.npz", "--force"]
    assert main(flight) == 0
    assert Path("flight.npz").read_bytes()[:2] == b"PK"
    assert quoted(free_name(Path("film.mp4"))) == "film-2.mp4"


def test_lists_are_plain_where_nobody_looks_and_json_on_request(capsys):
    for words, names in (
        (["policies"], "zoo:"),
        (["envs", "pendulum"], "Inverted"),
        (["bench"], "core"),
    ):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert names in out and "\x1b" not in out and "─" not in out
        assert not any(line.endswith(" ") for line in out.splitlines())
        assert main([*words, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)) > 1
    assert main(["bench", "smoke", "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["to_do"]) == 26


def test_the_package_is_found_in_the_folder_that_holds_the_clone(tmp_path):
    (tmp_path / "nprobot").symlink_to(Path(nprobot.__file__).resolve().parents[1])
    code = (
        "import nprobot\nfrom nprobot import catalogue\n"
        "print(nprobot.__version__, catalogue.DEFAULT_RULE, nprobot.envs.datasets.load.__name__, "
        "nprobot.policies.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    expected = f"{nprobot.__version__} np+feedback load nprobot.policies\n"
    assert done.stdout == expected, done.stderr


@pytest.mark.parametrize("module", ["gymnasium", "nprobot.errors", "rich.console", "torch"])
def test_ctrl_c_while_importing_is_one_word_and_130(tmp_path, module):
    """The signal comes in the middle of an import, which makes another error of it."""
    code = f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(10**7): pass
            except BaseException as error:
                raise ImportError("a broken installation") from error
sys.meta_path.insert(0, Finder())
sys.argv = ["/usr/bin/nprobot", "train", "--steps", "64", "--out", {str(tmp_path / "run")!r}]
from nprobot.cli import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == "Interrupted.\n"
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_evaluations_and_its_card_its_history(here, capsys):
    from nprobot.runs.log import column, read_table

    assert main(["train", *SMALL, "--seed", "5", "--out", "run"]) == 0
    assert main(["train", "--resume", "run", "--steps", "256"]) == 0
    assert main(["train", "--resume", "run", "--steps", "384"]) == 0
    steps, _ = column(read_table(Path("run/progress.csv")), "eval/mean_reward")
    assert steps == [128, 256, 384]
    assert main(["export", "run", "--episodes", "0"]) == 0
    card = Path("run/policy/README.md").read_text()
    assert "Trained in 3 sessions" in card
    for number, command in enumerate(("--seed 5", "--resume FOLDER --steps 256", "--steps 384")):
        assert re.search(rf"{command}.*# step {128 * number} to {128 * (number + 1)}\n", card)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_exit_codes_are_those_of_shells(number, code):
    class Work:
        stop_requested = False

    work = Work()
    with interruptible(work, lambda text: None, "step"):
        signal.raise_signal(number)
    assert work.stop_requested and exit_code() == code
