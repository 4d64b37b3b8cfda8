"""Runs killed with SIGKILL at any moment, resumed, and compared with one that was never stopped."""

import random
import signal

import pytest

COMMAND = [
    *("train", "--steps", "640", "--samples", "2", "--seed", "3", "--envs", "2"),
    *("--checkpoint-every", "128", "--evaluate-every", "256", "--hidden", "8", "8"),
    *("--n-steps", "64", "--batch-size", "32", "--n-epochs", "2"),
]

COUNT = """
import os, signal, sys
writes = 0
changing = {{"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.truncate"}}
def watch(event, details):
    global writes
    if event == "open":
        if not (isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)):
            return
    elif event not in changing:
        return
    if {path!r} not in str(details[0]):
        return
    writes += 1
    if writes == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""
"""Kills the process just before it changes something in the run's folder for the nth time."""


class Victim:
    """A run that is killed and resumed until it is done."""

    def __init__(self, launcher, path, command):
        self.launcher, self.path, self.command = launcher, path, command
        self.kills = 0

    def arguments(self):
        if (self.path / "config.json").exists():
            return [self.command[0], "--resume", self.path]
        return [*self.command, "--out", self.path]

    def kill_before_write(self, number):
        """Returns whether the session lived to make that many changes."""
        before = COUNT.format(path=str(self.path), at=number)
        return self._wait(self.launcher.start(*self.arguments(), before=before), None)

    def kill_after(self, seconds):
        """Returns whether the session lived that long."""
        return self._wait(self.launcher.start(*self.arguments()), seconds)

    def finish(self):
        assert not self._wait(self.launcher.start(*self.arguments()), None)

    def _wait(self, process, seconds):
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode == -signal.SIGKILL:
            self.kills += 1
            return True
        assert process.exitcode == 0, self.launcher.said()
        return False


def whole(launcher, path, command):
    """A run that is never stopped; how many changes it made to its folder."""
    count = path.parent / "count"
    process = launcher.start(
        *(*command, "--out", path),
        before=COUNT.format(path=str(path), at=-1),
        after=f"open({str(count)!r}, 'w').write(str(writes))",
    )
    process.join()
    assert process.exitcode == 0, launcher.said()
    return int(count.read_text())


def test_three_kills(launcher, tmp_path, tools):
    writes = whole(launcher, tmp_path / "whole", COMMAND)
    assert writes > 50
    victim = Victim(launcher, tmp_path / "run", COMMAND)
    luck = random.Random()  # another place each time: a fault will not hide for ever
    places = [luck.randrange(1, writes // 3) for _ in range(3)]
    for place in places:
        victim.kill_before_write(place)
    victim.finish()
    assert victim.kills == 3, places
    tools.assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_killed_before_every_write(launcher, tmp_path, tools):
    """Every place at which the folder changes, one after the other, many in the same run."""
    writes = whole(launcher, tmp_path / "whole", COMMAND)
    kills = place = number = 0
    while place < writes:
        number += 1
        victim = Victim(launcher, tmp_path / f"run{number}", COMMAND)
        for _ in range(6):
            place += 1
            if not victim.kill_before_write(place):
                break
        else:
            victim.finish()
        kills += victim.kills
        tools.assert_same(victim.path, tmp_path / "whole")
    assert kills >= 50


OTHERS = {
    "kept": ("--env", "Reacher-v5", "--hardware", "torque-motor", "--rule", "dnp"),
    "begun": ("--env", "CartPole-v1", "--checkpoint-episodes", "restart", "--rule", "bp"),
    "workers": ("--env", "Pendulum-v1", "--workers", "2", "--rule", "danp"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_killed_at_random_times(launcher, tmp_path, tools, kind):
    command = [*COMMAND, *OTHERS[kind]]
    whole(launcher, tmp_path / "whole", command)
    luck = random.Random(kind)
    kills, number = 0, 0
    while kills < 9:
        number += 1
        victim = Victim(launcher, tmp_path / f"run{number}", command)
        while victim.kill_after(luck.uniform(0.05, 4.0)):
            pass
        kills += victim.kills
        tools.assert_same(victim.path, tmp_path / "whole")
