"""Odd robots of our own, written to files."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")

import gymnasium
import pytest

import nprobot.envs  # noqa: F401 - registers the environments

LEG = """<body name="{n}" pos="{x} {y} 0"><joint name="{n}_a" axis="0 1 0" {a}/>
  <geom type="capsule" fromto="0 0 0 0 0 -.1" size=".015"/>
  <body name="{n}_foot" pos="0 0 -.1"><joint name="{n}_k" axis="0 1 0" {k}/>
    <geom type="capsule" fromto="0 0 0 0 0 -.1" size=".012"/></body></body>"""
CRAB = f"""<mujoco model="crab"><compiler angle="radian"/><option timestep=".004"/>
<default><joint armature=".003" damping=".1"/></default>
<worldbody><body name="shell" pos="0 0 7"><freejoint/>
  <geom type="ellipsoid" size=".15 .1 .05" mass="2"/>
  {
    "".join(
        LEG.format(n=n, x=x, y=y, a=a, k=k)
        for n, x, y, a, k in (
            ("fl", 0.1, 0.08, 'range="-1 1" limited="true"', ""),
            ("fr", 0.1, -0.08, "", ""),
            ("rl", -0.1, 0.08, "", ""),
            ("rr", -0.1, -0.08, "", ""),
        )
    )
}
</body></worldbody>
<tendon><fixed name="knees"><joint joint="rl_k" coef="1"/><joint joint="rr_k" coef="1"/></fixed>
</tendon>
<actuator>
  <position name="joint range" joint="fl_a" kp="20" kv="1"/>
  <position name="no range" joint="fl_k" kp="20" kv="1"/>
  <motor name="force range" joint="fr_a" forcerange="-4 4" forcelimited="true" gear="2"/>
  <motor name="own range" joint="fr_k" ctrlrange="-3 3" ctrllimited="true"/>
  <position name="tendon" tendon="knees" kp="10" kv="1" ctrlrange="-.5 .5" ctrllimited="true"/>
</actuator></mujoco>"""
CRANE = """<mujoco model="crane"><compiler angle="radian"/>
<asset><mesh name="cover" file="cover.stl"/></asset>
<default><joint damping="2" armature=".02"/></default>
<worldbody><body name="mast" pos="0 0 .1"><geom type="cylinder" size=".06 .1" mass="5"/>
  <body name="carriage" pos="0 0 .2"><joint name="lift" type="slide" axis="0 0 1" range="-.1 .5"/>
    <inertial pos="0 0 0" mass="1" diaginertia=".01 .01 .01"/>
    <geom type="mesh" mesh="cover" contype="{contype}" conaffinity="{contype}"/>
    <body name="boom" pos="0 0 .05"><joint name="swing" axis="0 0 1"/>
      <geom type="capsule" fromto="0 0 0 .4 0 0" size=".03" mass=".8"/>
      <body name="fore" pos=".4 0 0"><joint name="elbow" axis="0 0 1" range="-2.5 2.5"/>
        <geom type="capsule" fromto="0 0 0 .3 0 0" size=".025" mass=".5"/>
        <site name="tool" pos=".3 0 0"/>
        <body name="flap" pos=".3 0 0"><joint name="idle" axis="0 1 0" range="-1 1"/>
          <geom size=".02" mass=".05"/></body></body></body></body></body></worldbody>
<actuator><position name="lift" joint="lift" kp="800" kv="50"/>
  <motor name="elbow" joint="elbow" ctrlrange="-8 8" gear="-2"/>
  <position name="swing" joint="swing" kp="60" kv="4"/></actuator></mujoco>"""
UNUSABLE = """<mujoco><worldbody><body name="a"><joint name="turn"/><geom size=".1"/></body>
</worldbody><actuator><motor name="mute" joint="turn"/></actuator></mujoco>"""
FILES = {
    "crab": CRAB,
    "crane": CRANE.format(contype=0),
    "solid": CRANE.format(contype=1),
    "unusable": UNUSABLE,
}


@pytest.fixture
def odd(tmp_path):
    """Path of an odd robot's file."""

    def write(name):
        path = tmp_path / f"{name}.xml"
        path.write_text(FILES[name])
        return str(path)

    return write


@pytest.fixture
def robot():
    """Makes `nprobot/Robot-v0`."""
    made = []

    def make(model="quadruped", task=None, **settings):
        made.append(gymnasium.make("nprobot/Robot-v0", model=model, task=task, **settings))
        return made[-1]

    yield make
    for env in made:
        env.close()
