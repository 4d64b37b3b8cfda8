"""What a learner's page changes in the learner: nothing, or what its visitors want."""

import dataclasses
import itertools
import math
import multiprocessing
from typing import ClassVar

import numpy as np
from page_robots import DIAL, dial_policy

from nprobot.adaptation import AdaptationConfig, adapt
from nprobot.deploy.conditions import Conditions
from nprobot.training import RunConfig, environments, train
from nprobot.training.run_config import AlgorithmOptions
from nprobot.view import live_learners
from nprobot.view.learning_page import LearningNews, LearningSetup, Order, learning_loop
from nprobot.view.live_learners import AdaptationPage, TrainingPage
from nprobot.view.page_content import Wish


class StillLearningPage:
    """A page that always wants news, and brings the orders that it is given."""

    made: ClassVar[list] = []

    def __init__(self, setup=None, host="", port=0, found=None):
        self.setup, self.wanted, self.news, self.asked, self.closed = setup, True, [], [], False
        self.made.append(self)

    def orders(self):
        asked, self.asked = self.asked, []
        return asked

    def send(self, news):
        self.news.append(news)

    def close(self):
        self.closed = True


def test_a_run_with_a_page_learns_the_same_weight_for_weight(tmp_path, monkeypatch):
    monkeypatch.setattr(live_learners, "LearningPage", StillLearningPage)
    settings = AlgorithmOptions(n_steps=64, batch_size=32)
    config = RunConfig(env="InvertedPendulum-v5", steps=512, envs=2, algorithm=settings)
    plain = train(config, tmp_path / "plain")
    callback = TrainingPage(config, "127.0.0.1", 0, lambda url, error: None, share=math.inf)
    shown = train(config, tmp_path / "shown", callbacks=[callback])
    page = StillLearningPage.made[-1]
    assert page.closed
    assert page.setup.folder == tmp_path / "shown"
    assert [news.facts["trained"] for news in page.news] == [
        f"{n} steps" for n in (0, 128, 256, 384)
    ]
    for one, other in zip(plain.policy.operations, shown.policy.operations, strict=True):
        for name, array in one.arrays.items():
            np.testing.assert_array_equal(array, other.arrays[name])
    first, last = page.news[0].policy, page.news[-1].policy
    assert (first.operations[-1].arrays["weight"] != last.operations[-1].arrays["weight"]).any()


def test_a_learner_does_what_visitors_want():
    policy, page = dial_policy(), StillLearningPage()
    attendant = AdaptationPage(policy, page, Conditions())
    broken = Conditions(fault=("gain:0=0.4",))
    seen = {}

    class Visitors:
        """Break, let learn, undo, hold."""

        models = property(lambda self: attendant.models)

        def attend(self, learner, episodes):
            weight = learner.policy.actor[-1].weight.detach().numpy().copy()
            if learner.num_timesteps == 200:
                page.asked.append(Order("conditions", broken))
            if learner.num_timesteps == 800:
                seen["learned"] = weight
                page.asked += [Order("undo"), Order("learn", False)]
            if learner.num_timesteps == 1_200:
                seen["undone"] = weight
            attendant.attend(learner, episodes)
            seen["robots"] = [robot.models for robot in live_learners._robots(learner)]
            seen["hold"] = learner.hold

    config = AdaptationConfig(steps=1_200, calibration=100, robots=4, batch=40, node_noise=0.1)
    result = adapt(
        policy,
        lambda: environments.make(DIAL),
        (),
        config,
        evaluation_episodes=4,
        attendant=Visitors(),
    )
    assert seen["robots"] == [broken.models()] * 4
    assert seen["hold"]
    written = policy.operations[-1].arrays["weight"] / 2.0  # outputs of ±1 for the bounds
    assert not np.allclose(seen["learned"], written)
    np.testing.assert_allclose(seen["undone"], written)
    assert result.healthy.mean > -0.01
    assert result.before.mean < -0.05  # measured with what visitors have left
    returns = np.concatenate([news.returns for news in page.news])
    assert (np.diff(returns[:, 0]) >= 0).all()
    assert len(returns) == len(result.episodes) - 1
    assert "waits" in page.news[-1].facts["learner"]


def test_the_page_asks_shows_and_passes_on(still_page):
    theirs, ours = multiprocessing.Pipe()
    policy = dial_policy()
    loop, learner = learning_loop(theirs, LearningSetup("dials", policy, adapts=True))
    groups = {group.key for group in loop.groups()}
    assert {"learning", "run", "fault", "conditions"} <= groups
    assert not {"safety", "stop"} & groups
    loop.content()
    steps = itertools.count()

    def run(*wishes):
        still_page.asked = list(wishes)
        until = next(steps) + 40
        loop.run(still_page, lambda: next(steps) > until)

    seconds = itertools.count()
    loop._sleep, loop._clock = (lambda s: None), (lambda: float(next(seconds)))
    run()
    assert ours.recv() is None  # it wants news
    last = dataclasses.replace(
        policy.operations[-1], arrays={"weight": np.eye(2) * 0.25, "bias": np.zeros(2)}
    )
    changed = dataclasses.replace(policy, operations=(*policy.operations[:-1], last))
    ours.send(LearningNews(changed, np.array([[10.0, -3.0]]), {"learner": "step 10, learns"}))
    run(Wish("fault", "break"), Wish("learning", "undo_learning"))
    shown = loop.first.controller.policy.operations[-1]
    np.testing.assert_array_equal(shown.arrays["weight"], last.arrays["weight"])
    assert loop.ghost.controller.policy is policy
    rows = [f.samples["learning"] for f in still_page.frames if "learning" in f.samples]
    np.testing.assert_array_equal(rows[0], [[10.0, -3.0]])
    told = [ours.recv() for _ in range(2)]
    assert {order.name for order in told if order} >= {"undo"}
    assert loop.ghost.equipped.conditions.fault == ("gain:0=0.4",)
    ours.close()
    run()
    assert learner.ended


def test_the_curve_of_a_run_is_read_from_its_folder(tmp_path, still_page):
    table = "time/total_timesteps,rollout/ep_rew_mean,eval/mean_reward\n"
    (tmp_path / "progress.csv").write_text(f"{table}10,-3.0,\n20,-2.0,\n20,,-1.5\n")
    theirs, ours = multiprocessing.Pipe()
    setup = LearningSetup("dials", dial_policy(), robots=2, folder=tmp_path)
    loop, learner = learning_loop(theirs, setup)
    loop.content()
    ours.send(LearningNews(dial_policy(), facts={"trained": "20 steps"}))
    news, facts = learner.news(loop, watched=True)
    np.testing.assert_array_equal(news["learning"], [[10, -3], [20, -2]])
    np.testing.assert_array_equal(news["evaluation"], [[20, -1.5]])
    assert facts == {"trained": "20 steps"}
    assert learner.news(loop, watched=True)[0] == {}
    assert {group.key for group in loop.groups()} == {"run", "shown"}
