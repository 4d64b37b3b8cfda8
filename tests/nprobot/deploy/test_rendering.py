"""Drawing without a screen: the back end that works is found, and films show what happens."""

import sys

import imageio.v2 as imageio
import numpy as np
import pytest

from nprobot.deploy import Film, choose_backend, film_episode, make_robot, rendering
from nprobot.errors import DeployError, ExistsError, MissingPackageError
from nprobot.policies import zoo
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
    def test_one_that_was_chosen_is_kept(self, monkeypatch):
        monkeypatch.setenv("MUJOCO_GL", "osmesa")
        monkeypatch.setattr(rendering, "_probe", pytest.fail)
        assert choose_backend() == "osmesa"

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
            with pytest.raises(ExistsError, match="choose another name"):
                check(file)
        with pytest.raises(DeployError, match=r"a film is an \.mp4"):
            rendering.check_film(tmp_path / "film.avi")

    def test_missing_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
        with pytest.raises(MissingPackageError, match=r"nprobot\[video\]"):
            rendering.check_film(tmp_path / "film.mp4")


def pole_top(frame):
    """Row of the highest blue-green pixel: the pole's end."""
    red, green, blue = (frame[..., i].astype(int) for i in range(3))
    return int(np.argwhere((green > red + 30) & (blue > red + 30))[:, 0].min())
