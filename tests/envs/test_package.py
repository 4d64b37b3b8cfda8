"""What importing the package costs, and that its public names are there."""

import subprocess
import sys

import gymnasium
import pytest

from nprobot import envs


def test_importing_the_package_registers_environments_and_loads_nothing_heavy():
    code = (
        "import sys, gymnasium, nprobot.envs as envs\n"
        "assert all(name in gymnasium.registry for name in envs.ENVIRONMENTS)\n"
        "heavy = {'mujoco', 'torch', 'stable_baselines3', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "envs.datasets.inverse_dynamics, envs.NoisyActuators\n"
        "heavy = {'torch', 'stable_baselines3', 'pandas', 'minari', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", [envs, envs.actuators, envs.datasets])
def test_public_names_are_there_and_others_are_attribute_errors(package):
    assert package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_environments_can_be_made_through_the_module_prefix():
    env = gymnasium.make("nprobot.envs:nprobot/ArmReach-v0")
    assert env.spec.id == "nprobot/ArmReach-v0"
    env.close()
