"""What the tests of training runs share: a small run, and a reporter that remembers."""

from nprobot.training.run_config import AlgorithmOptions, NetworkOptions, RunConfig

CONFIG = RunConfig(
    steps=512,
    rule="danp",
    samples=2,
    seed=3,
    envs=2,
    checkpoint_every=200,
    network=NetworkOptions(hidden=(8, 8)),
    algorithm=AlgorithmOptions(n_steps=64, batch_size=32, n_epochs=2),
)
STEPS = "time/total_timesteps"


class Listener:
    """Keeps what a run reports."""

    def __init__(self):
        self.steps, self.messages = [], []

    def progress(self, progress):
        self.steps.append(progress.done)

    def message(self, text):
        self.messages.append(text)
