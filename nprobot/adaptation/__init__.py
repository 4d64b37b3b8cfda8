"""Going on learning on the robot: faults, the learner, what came of it, and its folder."""
