"""Reports of made-up rows: scores, words, and a page that fetches nothing."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

from nprobot import catalogue
from nprobot.benchmark import figures
from nprobot.benchmark.figures import looks
from nprobot.benchmark.findings import by_task, caveats, headline
from nprobot.benchmark.page import report
from nprobot.benchmark.results import Results
from nprobot.benchmark.rows import FORMAT, open_rows
from nprobot.benchmark.suite import load
from nprobot.errors import ExistsError


@pytest.fixture
def rows(made_up):
    return table(made_up, 3)


@pytest.fixture
def many(made_up):
    return table(made_up, 4)


def table(made_up, seeds):
    """Random at 0, BP at 10; NP wins on one task and loses on the other; ARS is in between."""
    made = []
    for env, own in (("Reacher-v5", 12.0), ("Hopper-v5", 5.0)):
        made.append(made_up("random", 0, 0.0, env=env, algo="random"))
        for seed in range(seeds):
            made.append(made_up("BP", seed, 9.0 + seed, env=env, rule="bp"))
            made.append(made_up("NP, K = 8", seed, own, env=env, rule="np"))
            made.append(made_up("ARS", seed, 7.0, env=env, algo="ars"))
    return made


def test_scores_are_between_random_and_backprop(rows):
    results = Results.of(rows)
    reacher, hopper = results.tasks
    assert (results.baseline, results.random) == ("BP", "random")
    assert results.scores(reacher, "NP, K = 8").tolist() == pytest.approx([1.2] * 3)
    assert results.scores(hopper, "BP").tolist() == pytest.approx([0.9, 1.0, 1.1])
    assert results.learners == ["BP", "NP, K = 8", "ARS", "random"]


def test_a_diverged_run_counts_as_random_and_a_failed_one_not_at_all(rows, made_up):
    rows.append(made_up("NP, K = 8", 3, 0.0, rule="np", status="diverged"))
    rows.append(made_up("NP, K = 8", 4, 0.0, rule="np", status="failed"))
    results = Results.of(rows)
    assert results.scores(results.tasks[0], "NP, K = 8").tolist() == pytest.approx([1.2] * 3 + [0])
    said = " ".join(caveats(results))
    assert "Diverged" in said and "1 runs failed" in said


def test_equal_cost_is_read_off_the_curve(rows):
    results = Results.of(rows)
    reacher = results.tasks[0]
    for row in rows:
        if row["learner"].startswith("NP"):  # spends twice as much on the same returns
            row["curve"]["multiply_adds"] = [0, 50_000, 100_000]
    scores = results.at_equal(reacher, "NP, K = 8", "multiply_adds")
    assert scores.tolist() == pytest.approx([1.1] * 3)
    # Half the budget in all: the finished policy counts.
    for row in rows:
        if row["learner"] == "ARS":
            row["curve"]["multiply_adds"] = [0, 10, 20]
    assert results.at_equal(reacher, "ARS", "multiply_adds").tolist() == pytest.approx([0.7] * 3)


def test_losses_are_said_in_words(many):
    results = Results.of(many)
    reacher, hopper = results.tasks
    assert "NP, K = 8 beats BP: 12.00 against 10.50" in " ".join(by_task(results, reacher))
    lost = " ".join(by_task(results, hopper))
    assert "BP wins" in lost and "48 %" in lost and "ARS (7.00) beats NP, K = 8" in lost
    assert "4 seeds" in " ".join(caveats(results))
    assert "NP, K = 8" in headline(results, "ideal")[0]


def test_words_follow_the_statistics(many):
    """With two seeds, or with runs that overlap, nobody beats anybody."""
    few = Results.of([row for row in many if row["seed"] < 2])
    reacher, hopper = few.tasks
    said = " ".join([*by_task(few, reacher), *by_task(few, hopper)])
    assert "is ahead of BP, on 2 seeds, which is too few to tell from chance: 12.00" in said
    assert "BP is ahead, on 2 seeds" in said and "beats" not in said and "wins" not in said
    for row in many:
        if row["learner"].startswith("NP") and row["env"] == "Reacher-v5":
            row["return_mean"] = 14.0 if row["seed"] < 2 else 10.0
    said = " ".join(by_task(Results.of(many), reacher))
    assert "NP, K = 8 is ahead of BP, and not beyond chance" in said


def test_figures_name_what_they_cut(many, made_up, monkeypatch):
    many += [made_up("CMA-ES", s, 31.0, env=e, algo="cma-es") for s in range(4)
             for e in ("Reacher-v5", "Hopper-v5")]  # fmt: skip
    drawn = []
    monkeypatch.setattr(figures, "_png", lambda figure: drawn.append(figure) or b"")
    results = Results.of(many)
    figures.score_figure(results, "ideal")
    figures.profile_figure(results, "ideal")
    scores, profiles = (figure.axes[0] for figure in drawn)
    assert any(re.match(r"2\.9.* ▸", text.get_text()) for text in scores.texts)
    assert "beyond the edge, up to: CMA-ES 2.95" in profiles.get_xlabel()


def test_a_report_is_not_written_over_something_else(many, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "thesis"
    with open_rows(folder) as store:
        for row in many:
            store.append(row)
    other.mkdir()
    (other / "index.html").write_text("my thesis")
    with pytest.raises(ExistsError, match="thesis-2 is free"):
        report(folder, other)
    report(folder)
    report(folder)  # its own it makes again
    (tmp_path / "page.md").write_text("mine")
    with pytest.raises(ExistsError, match="--force"):
        report(folder, markdown=tmp_path / "page.md")
    report(folder, markdown=tmp_path / "page.md", force=True)
    assert "mine" not in (tmp_path / "page.md").read_text()


def test_rows_say_that_another_version_wrote_them(rows):
    assert "earlier version" not in " ".join(caveats(Results.of(rows)))
    rows[0] |= {"format": FORMAT - 1, "versions": {"nprobot": "0.0.9"}}
    assert "1 of 20 runs are of an earlier version (nprobot 0.0.9" in " ".join(
        caveats(Results.of(rows))
    )


def test_no_two_learners_of_core_differ_by_their_colour_alone():
    rows = [run.to_dict() | {"status": "done", "return_mean": 0.0} for run in load("core").runs]
    found = looks(Results.of(rows))
    shapes = {
        name: (look["marker"], look["markerfacecolor"] == "white", look["linestyle"])
        for name, look in found.items()
    }
    assert len(set(shapes.values())) == len(shapes)
    assert found["DANP, K = 8"]["color"] == catalogue.rules()["danp"].colour


def test_learners_that_did_not_run_everywhere_are_left_out_of_averages(rows, made_up):
    rows.append(made_up("CMA-ES", 0, 8.0, algo="cma-es"))
    results = Results.of(rows)
    assert "CMA-ES" not in results.complete("ideal")
    assert "CMA-ES (not on Hopper-v5)" in " ".join(caveats(results))


def test_without_anchors_there_are_no_scores_but_a_report(tmp_path, made_up):
    with open_rows(tmp_path) as store:
        store.append(made_up("NP", 0, 1.0, rule="np"))
    made = report(tmp_path)
    assert np.isnan(made.results.scale(made.results.tasks[0]))
    assert "one is missing" in made.page.read_text()


def test_the_page_has_everything_in_it_and_fetches_nothing(tmp_path, rows, made_up):
    rows.append(made_up("NP, K = 8", 7, 0.0, rule="np", status="failed"))
    with open_rows(tmp_path) as store:
        for row in rows:
            store.append(row)
    made = report(tmp_path, markdown=tmp_path / "tables.md")
    page = made.page.read_text()
    without_pictures = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|<script|url\(", without_pictures)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) >= 8
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for text in ("IQM", "multiply-adds", "nprobot bench made-up --env Hopper-v5", "BP is ahead",
                 "ValueError: made up", "some machine", "nowhere"):  # fmt: skip
        assert text in page
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made.pictures)
    with (made.page.parent / "rows.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    with (made.page.parent / "curves.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * (len(rows) - 1)
    tables = (tmp_path / "tables.md").read_text()
    assert "| learner | IQM |" in tables and "BP is ahead" in tables
    assert "**12.00 ± 0.00**" in tables and "&" not in tables


def test_names_cannot_break_the_page(tmp_path, made_up):
    with open_rows(tmp_path) as store:
        store.append(made_up("<script>alert(1)</script>", 0, 1.0, rule="np"))
    assert "<script" not in report(tmp_path).page.read_text()
