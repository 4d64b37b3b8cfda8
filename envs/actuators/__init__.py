"""Models of noisy actuators and the wrappers that put them before a robot."""
