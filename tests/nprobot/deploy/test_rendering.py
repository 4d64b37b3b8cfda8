"""Drawing without a screen: the back end that works is found, and films show what happens."""

import sys

import gymnasium
import imageio.v2 as imageio
import mujoco
import numpy as np
import pytest

from nprobot.deploy import Film, choose_backend, film_episode, make_robot, rendering
from nprobot.errors import (
    DeployError,
    EnvironmentUnavailableError,
    ExistsError,
    MissingPackageError,
    UnknownNameError,
)
from nprobot.policies import zoo
from nprobot.training.environments import make
from nprobot.training.evaluation import evaluate

from .helpers import box, zero_policy

POLICY = zoo.load_policy("InvertedPendulum")
FALLING = zero_policy("InvertedPendulum-v5", 4, box(3), 25.0)


@pytest.fixture
def no_backend(monkeypatch):
    """Have no back end chosen, and none that a test chooses afterwards."""
    monkeypatch.setenv("MUJOCO_GL", "")  # so that its absence is what comes back
    monkeypatch.delenv("MUJOCO_GL")


class TestBackend:
    def test_one_that_was_chosen_is_kept_if_it_draws(self, monkeypatch):
        monkeypatch.setenv("MUJOCO_GL", "osmesa")
        monkeypatch.setattr(rendering, "_probe", {"osmesa": None}.get)
        assert choose_backend() == "osmesa"
        monkeypatch.setattr(rendering, "_probe", {"osmesa": "no library"}.get)
        with pytest.raises(DeployError, match="'osmesa', and that does not draw here: no library"):
            choose_backend()

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems have one back end")
    @pytest.mark.usefixtures("no_backend")
    def test_the_first_that_works_is_chosen(self, monkeypatch):
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.setattr(rendering, "_probe", lambda backend: f"no {backend}")
        with pytest.raises(DeployError, match=r"egl: no egl; osmesa: no osmesa.*apt install"):
            choose_backend()
        monkeypatch.setattr(rendering, "_probe", {"egl": "no driver", "osmesa": None}.get)
        assert choose_backend() == "osmesa"

    def test_a_broken_one_is_found_broken(self):
        assert "MUJOCO_GL" in rendering._probe("nonsense")

    def test_windows_need_a_display(self, monkeypatch):
        monkeypatch.setattr(rendering, "has_display", lambda: False)
        with pytest.raises(DeployError, match="--record"):
            rendering.require_display()
        monkeypatch.setattr(rendering, "has_display", lambda: True)
        monkeypatch.setenv("MUJOCO_GL", "egl")
        with pytest.raises(DeployError, match="unset MUJOCO_GL"):
            rendering.require_display()


@pytest.mark.usefixtures("no_backend")
class TestFilm:
    def test_a_pole_stands_or_falls(self, tmp_path):
        """Two films, of a policy that balances and of none."""
        choose_backend()
        heights = {}
        for name, policy in (("balanced", POLICY), ("fallen", FALLING)):
            size = {"width": 160, "height": 160}
            robot = make_robot(policy, env_kwargs=size, render_mode="rgb_array")
            with Film(tmp_path / f"{name}.mp4", robot.env) as film:
                observation, _ = robot.env.reset(seed=0)
                for step in range(30):
                    observation, *_ = robot.env.step(policy.predict(observation))
                    film(0, step, 0.0, {})
            robot.env.close()
            frames = [*map(np.asarray, imageio.get_reader(tmp_path / f"{name}.mp4"))]
            assert len(frames) == film.frames == 30
            heights[name] = [pole_top(frame) for frame in (frames[0], frames[-1])]
        assert abs(np.subtract(*heights["balanced"])) <= 3
        assert heights["fallen"][1] > heights["fallen"][0] + 7

    def test_of_the_first_episode_of_an_evaluation(self, tmp_path):
        video = tmp_path / "films" / "first.mp4"
        film_episode(FALLING, video, env_kwargs={"width": 48, "height": 32}, seed=4)
        frames = imageio.mimread(video)
        assert len(frames) == evaluate(FALLING, episodes=1, seed=4).lengths[0]
        assert frames[0].shape == (32, 48, 3)

    def test_is_not_written_over(self, tmp_path):
        file = tmp_path / "film.mp4"
        file.write_text("precious")
        for check in (rendering.check_film, lambda path: film_episode(FALLING, path)):
            with pytest.raises(ExistsError, match=r"--force replaces it, and .*film-2\.mp4"):
                check(file)
        rendering.check_film(file, force=True)
        with pytest.raises(DeployError, match=r"a film is an \.mp4"):
            rendering.check_film(tmp_path / "film.avi")

    def test_missing_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
        with pytest.raises(MissingPackageError, match=r"nprobot\[video\]"):
            rendering.check_film(tmp_path / "film.mp4")


OWN = """
<mujoco><option timestep="0.01"/><worldbody><body pos="3 -2 1">
<joint name="hinge" axis="0 1 0" damping="0.05"/>
<geom type="capsule" fromto="0 0 0 0 0 0.5" size="0.04" rgba="0.1 0.1 0.1 1"/></body></worldbody>
<actuator><motor joint="hinge" ctrllimited="true" ctrlrange="-2 2"/></actuator></mujoco>
"""


class Own(gymnasium.Env):
    """A dark robot in the dark: no light, no camera, no sky, and no drawing of its own."""

    dt = 0.01
    metadata = {"render_modes": []}  # noqa: RUF012 - as gymnasium has it
    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32)

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(OWN)
        self.data = mujoco.MjData(self.model)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        return np.zeros(2), {}

    def step(self, action):
        self.data.qpos[0] += np.pi / 16
        mujoco.mj_forward(self.model, self.data)
        return np.zeros(2), 0.0, False, False, {}


class Blind(gymnasium.Env):
    observation_space, action_space = Own.observation_space, Own.action_space


gymnasium.register("Tests/Own-v0", Own, max_episode_steps=32)
gymnasium.register("Tests/Blind-v0", Blind)


@pytest.mark.usefixtures("no_backend")
class TestOwnRobot:
    def test_is_seen_whole_in_every_posture(self, tmp_path):
        choose_backend()
        env = make("Tests/Own-v0", render_mode="rgb_array")
        env.reset(seed=0)
        with Film(tmp_path / "film.mp4", env, size=(97, 65), rate=50) as film:
            for step in range(32):
                env.step(np.zeros(1))
                film(0, step, 0.0, {})
        frames = imageio.mimread(tmp_path / "film.mp4")
        assert len(frames) == film.frames == 16
        assert frames[0].shape == (66, 98, 3)  # the codec takes even sizes
        places = []
        for frame in frames:
            light = frame.mean(axis=2)
            assert np.median(light) > 120  # a light wall
            dark = np.argwhere(light < 90)
            low, high = dark.min(axis=0), dark.max(axis=0)
            assert len(dark) > 30 and (low > 1).all() and (high < [62, 94]).all()
            places.append(dark.mean(axis=0))
        assert np.ptp(places, axis=0).max() > 20  # it goes round

    def test_cameras_and_sizes_that_there_are_not_are_named(self, tmp_path):
        choose_backend()
        env = make("Reacher-v5", render_mode="rgb_array")
        with pytest.raises(UnknownNameError, match="known: free"):
            Film(tmp_path / "film.mp4", env, camera="front")
        with pytest.raises(EnvironmentUnavailableError, match="draws no pictures"):
            make("Tests/Blind-v0", render_mode="rgb_array")
        cart = make("CartPole-v1", render_mode="rgb_array")
        with pytest.raises(DeployError, match="no size or camera"):
            Film(tmp_path / "film.mp4", cart, size=(64, 64))
        with Film(tmp_path / "film.mp4", env, camera="free", size=(64, 32)) as film:
            pass
        assert film.frames == 0 and not list(tmp_path.iterdir())  # nothing is left of no film
        env.close()

    def test_what_a_back_end_raises_is_one_error(self, tmp_path, monkeypatch):
        choose_backend()
        env = make("CartPole-v1", render_mode="rgb_array")
        env.reset(seed=0)
        film = Film(tmp_path / "film.mp4", env)
        monkeypatch.setattr(film, "_draw", lambda: {}["window"])
        with pytest.raises(DeployError, match=r"cannot be drawn: KeyError .*'window'"):
            film(0, 0, 0.0, {})
        monkeypatch.setattr(film, "_draw", lambda: None)
        with pytest.raises(DeployError, match="draws no pictures"):
            film(0, 0, 0.0, {})


def pole_top(frame):
    """Row of the highest blue-green pixel: the pole's end."""
    red, green, blue = (frame[..., i].astype(int) for i in range(3))
    return int(np.argwhere((green > red + 30) & (blue > red + 30))[:, 0].min())
