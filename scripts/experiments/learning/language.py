"""A language model without backpropagation: a small GPT reads Shakespeare letter by letter.

Two pre-norm blocks of width 128, 64 letters, batches of 16, 1,000 steps of AdamW with a rate that
falls by a cosine. Each learner takes the best of the same rates on a seed of its own. The loss is
nats a letter on the last tenth of the text.

    NPROBOT_DATA=FOLDER python -m scripts.experiments.learning.language runs    # results/language/
    NPROBOT_DATA=FOLDER python -m scripts.experiments.learning.language correction
    python -m scripts.experiments.learning.language report   # docs/experiments/language.md

FOLDER holds `tinyshakespeare.txt`, which is not ours to give.
"""

from __future__ import annotations

import math
import os
import time
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nprobot
from nprobot.catalogue import learner_title
from nprobot.policies import ParameterUse, decorrelate

from ..pages import DOCS, each, markdown, put_section
from ..rows import RESULTS, ROOT, Only, Row, column, command, keep, read, select

ROWS = RESULTS / "language" / "rows.csv"
CORRECTION = RESULTS / "language" / "correction.csv"
DATA = Path(os.environ.get("NPROBOT_DATA", ROOT.parent / "shared" / "data"))
LETTERS, WIDTH, BATCH, STEPS = 64, 128, 16, 1000
LEARNERS = (("bp", 0), ("np+feedback", 1), ("dnp+feedback", 1), ("anp", 16), ("danp", 16))
"""Rule and K."""
RATES = (1e-3, 3e-3)
SEARCH_SEED, SEEDS = 100, (0, 1, 2)
TEST_BATCHES = 100


class GPT(nn.Module):
    """Letters in, logits of the next ones out."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, WIDTH)
        self.position = nn.Parameter(torch.randn(1, LETTERS, WIDTH) * 0.02)
        self.add_position = ParameterUse(torch.add, self.position)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                *(WIDTH, 4, 4 * WIDTH, 0.0, "gelu"), batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, letters)
        self.mask = nn.Transformer.generate_square_subsequent_mask(LETTERS)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, T, letters) of letters (B, T)."""
        x = self.add_position(self.embed(x))
        for block in self.blocks:
            x = block(x, src_mask=self.mask, is_causal=True)
        y: Tensor = self.head(self.norm(x))
        return y


@cache
def text() -> tuple[Tensor, Tensor, int]:
    """Letters as numbers: to learn from, to test on, and how many there are."""
    raw = (DATA / "tinyshakespeare.txt").read_text("utf-8")
    known = {letter: number for number, letter in enumerate(sorted(set(raw)))}
    letters = torch.tensor([known[letter] for letter in raw])
    cut = int(0.9 * len(letters))
    return letters[:cut], letters[cut:], len(known)


def batch(letters: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pieces of text, and each letter's next one; both (B, T)."""
    starts = torch.randint(len(letters) - LETTERS, (BATCH, 1), generator=generator)
    places = starts + torch.arange(LETTERS)
    return letters[places], letters[places + 1]


def nats(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy a letter, (..., B), of logits (..., B, T, letters)."""
    taken = F.log_softmax(logits, -1)
    chosen = taken.gather(-1, target.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return -chosen.mean(-1)


def run(rule: str, samples: int, rate: float, seed: int) -> Row:
    """Train one model.

    Returns:
        Test loss, CPU time of a step, and the cosine of the last gradient to backprop's.
    """
    train, test, letters = text()
    torch.manual_seed(seed)
    net: nn.Module = GPT(letters)
    learner = nprobot.learning_rule(rule, samples=samples or None, seed=seed)
    if learner.decorrelated:
        net = decorrelate(net)
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    generator = torch.Generator().manual_seed(seed)
    began, cosine = time.process_time(), math.nan
    for step in range(STEPS):
        x, target = batch(train, generator)
        optimiser.zero_grad()
        learner.backward(net, x, lambda y, target=target: nats(y, target))
        if step == STEPS - 1:
            took = time.process_time() - began
            cosine = to_backprop(net, x, target)
        if learner.decorrelated:
            learner.decorrelate(net)
        optimiser.step()
        fall.step()
    generator.manual_seed(1)
    with torch.no_grad():
        pieces = (batch(test, generator) for _ in range(TEST_BATCHES))
        losses = [nats(net(x), target).mean().item() for x, target in pieces]
    return {
        "nats": f"{sum(losses) / len(losses):.4f}",
        "milliseconds": f"{1e3 * took / STEPS:.1f}",
        "cosine": f"{cosine:.4f}",
    }


def to_backprop(net: nn.Module, x: Tensor, target: Tensor) -> float:
    """Cosine of the gradients that the parameters have to those of backprop."""
    with_gradient = [p for p in net.parameters() if p.grad is not None]
    own = torch.cat([p.grad.flatten() for p in with_gradient if p.grad is not None])
    true = torch.autograd.grad(nats(net(x), target).mean(), with_gradient)
    return F.cosine_similarity(own, torch.cat([g.flatten() for g in true]), 0).item()


def cosines(correction: float, sigma: float, seed: int) -> Row:
    """Of the gradient to backprop's in steps 3, 50 and 100, all parameters together.

    The rate is 1e-3 throughout.
    """
    train, _, letters = text()
    torch.manual_seed(seed)
    net = GPT(letters)
    rule = nprobot.learning_rule("np+feedback", correction=correction, sigma=sigma, seed=seed)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    found: Row = {}
    for step in range(1, 101):
        x, target = batch(train, generator)
        optimiser.zero_grad()
        rule.backward(net, x, lambda y, target=target: nats(y, target))
        if step in (3, 50, 100):
            found[f"step_{step}"] = f"{to_backprop(net, x, target):.3f}"
        optimiser.step()
    return found


def correction(only: Only = ()) -> None:
    """What the correction does to the gradient, beside the guess alone."""
    settings = ((0.0, 1e-3), (0.01, 1e-3), (1.0, 1e-3), (1.0, 1e-4))
    jobs = [{"correction": c, "sigma": s, "seed": k} for c, s in settings for k in SEEDS]
    keep(CORRECTION, jobs, cosines, only=only)


def best_rate(rule: str, samples: int) -> float:
    """The rate that did best on the seed of the search."""
    found = select(read(ROWS), rule=rule, samples=samples, seed=SEARCH_SEED)
    return float(min(found, key=lambda row: float(row["nats"]))["rate"])


def runs(only: Only = ()) -> None:
    """Search the rate of every learner, then train it on the other seeds."""
    for rule, samples in LEARNERS:
        learner = {"rule": rule, "samples": samples}
        search = [{**learner, "rate": rate, "seed": SEARCH_SEED} for rate in RATES]
        keep(ROWS, search, run, only=only)
        if len(select(read(ROWS), **learner, seed=SEARCH_SEED)) == len(RATES):
            rate = best_rate(rule, samples)
            keep(ROWS, [{**learner, "rate": rate, "seed": s} for s in SEEDS], run, only=only)


def report() -> None:
    """The table, in docs/experiments/language.md."""
    rows, lines = read(ROWS), []
    backprop = column([r for r in select(rows, rule="bp") if int(r["seed"]) in SEEDS], "nats")
    for rule, samples in LEARNERS:
        own = [r for r in select(rows, rule=rule, samples=samples) if int(r["seed"]) in SEEDS]
        if not own:
            continue
        loss, step = column(own, "nats"), column(own, "milliseconds")
        above = sum(loss) / len(loss) - sum(backprop) / len(backprop)
        lines.append(
            [
                learner_title(rule, samples or None),
                each(loss, 3),
                f"{above:+.3f}",
                f"{min(column(own, 'cosine')):.3f}",
                f"{min(step) / min(column(select(rows, rule='bp'), 'milliseconds')):.1f}",
                own[0]["rate"],
            ]
        )
    heading = ("learner", "nats a letter (seeds 0, 1, 2)", "above BP", "last cosine, least")
    heading += ("CPU time of a step, times BP's", "rate")
    put_section("letters", markdown(heading, lines), DOCS / "language.md")
    rows, lines = read(CORRECTION), []
    for strength, sigma in dict.fromkeys((row["correction"], row["sigma"]) for row in rows):
        own = select(rows, correction=strength, sigma=sigma)
        steps = (each(column(own, f"step_{step}"), 2) for step in (3, 50, 100))
        lines.append([strength, sigma, *steps])
    heading = ("strength of the correction", "σ", "step 3", "step 50", "step 100")
    put_section("correction", markdown(heading, lines), DOCS / "language.md")


if __name__ == "__main__":
    command(__doc__, runs, correction, report)
