"""The pages: their code runs, their commands exist, their links lead somewhere, their words are
spelled (in British English), and generated tables are what the rows say.

A fenced block is run as a reader would run it, all Python of a page in one namespace and all of a
page in one empty folder. Comments just before a block, which no reader sees, say what is different:

    <!-- not run: the reason -->
    <!-- only read: the reason -->   options of commands are read, and nothing is done
    <!-- file: name -->          the block is written to a file; so is one after "`name.xml`:"
    <!-- first: Python -->       code that gives names to what the page takes for granted
    <!-- tiny: old -> new -->    what is made small; several are parted by ";"
"""

import contextlib
import importlib
import itertools
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import gymnasium
import pytest
import torch
import tyro
from markdown_it import MarkdownIt

from nprobot import catalogue
from nprobot.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = ("reference/api/", "reference/command-line/", "_")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(
        page
        for page in DOCS.rglob("*.md")
        if not page.relative_to(DOCS).as_posix().startswith(GENERATED)
    ),
]
NOTEBOOKS = DOCS / "experiments"
SHOWN = {
    "text",
    "toml",
    "json",
    "xml",
    "bibtex",
    "yaml",
    "mermaid",
    "{toctree}",
    "{math}",
    "{include}",
}
"""Languages of blocks that are looked at, or written to a file."""
NAMED = re.compile(r"`([\w-]+\.(?:xml|py|toml))`[^`]*:$")
"""The end of a paragraph that says to which file the block after it belongs."""
DIRECTIVE = re.compile(r"<!-- (not run|only read|file|first|tiny): ?(.*?)-->", re.DOTALL)
SHORT = "--steps 256 --envs 2 --hidden 8"
TINY = {
    "train": {"ppo": f"{SHORT} --n-steps 64 --batch-size 32", "nrl": SHORT, "sac": SHORT},
    "fit": "--epochs 1 --hidden 8",
    "evaluate": "--episodes 1",
    "report": "",
    "export": "--episodes 1",
    "deploy": "--episodes 1",
    "adapt": "--steps 64 --calibration 32",
}
"""Options that make a command quick, in place of those that a page gives."""
SLOW_OPTIONS = {"--record": 1, "--realtime": 0, "--viewer": 0}
"""Options that are left out, and how many values they have; other tests show that films work."""
READ_ONLY = {"bench", "tune", "view", "robots", "chip", "push", "pull"}
"""Commands that take long, or a network, or a reader who presses Ctrl-C: their options are read."""


@dataclass
class Block:
    """A fenced block of a page, and what the comments before it say."""

    language: str
    text: str
    line: int
    directives: dict[str, str]


def blocks(page):
    tokens = MarkdownIt().parse(page.read_text("utf-8"))
    found, directives = [], {}
    for token in tokens:
        if token.type == "html_block":
            directives |= {name: text.strip() for name, text in DIRECTIVE.findall(token.content)}
        elif token.type == "fence":
            words = token.info.split()
            found.append(Block(words[0] if words else "", token.content, token.map[0], directives))
            directives = {}
        elif token.type == "inline" and token.level == 1:
            name = NAMED.search(token.content)
            directives = {"file": name[1]} if name else {}
    return found


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """An empty folder; what a page registers is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))
    environments, modules = dict(gymnasium.registry), set(sys.modules)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    gymnasium.registry.clear()
    gymnasium.registry.update(environments)
    for name, traits in list(catalogue._TRAITS.items()):
        if not traits.module.startswith("nprobot."):
            del catalogue._TRAITS[name], catalogue._CLASSES[name]
    for name in set(sys.modules) - modules:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_every_block_of_a_page_runs(page, workshop, capsys):
    names = {"__name__": "page"}
    for block in blocks(page):
        own = block.directives
        text = made_tiny(block.text, own.get("tiny", ""))
        if "not run" in own:
            assert own["not run"], f"{name_of(page)}:{block.line} gives no reason"
        elif "file" in own:
            (workshop / own["file"]).write_text(text, "utf-8")
        elif block.language == "python":
            exec(own.get("first", ""), names)
            names["__file__"] = str(workshop / "page.py")
            code = re.sub(r"\blearn\(([\w_]*=)?\d[\d_]*", r"learn(\g<1>64", text)
            code = re.sub(r'PPO\("MlpPolicy", [^,)]+(?=, seed|\))', r"\g<0>, n_steps=64", code)
            exec(compile(code, f"{name_of(page)}:{block.line}", "exec"), names)
        elif block.language == "sh":
            exec(own.get("first", ""), names)
            assert own.get("only read", "a reason"), f"{name_of(page)}:{block.line}: why?"
            only_read = NOTEBOOKS in page.parents or "only read" in own
            for line in re.sub(r"\\\n\s*", "", text).splitlines():
                run_line(line, capsys, only_read)
        else:
            assert block.language in SHOWN, f"{name_of(page)}:{block.line}: {block.language!r}"


def made_tiny(text, substitutions):
    for pair in filter(None, substitutions.split(";")):
        old, arrow, new = pair.partition("->")
        assert arrow and old.strip() in text, f"{old.strip()!r} is not in the block"
        text = text.replace(old.strip(), new.strip())
    return text


def run_line(line, capsys, only_read):
    """Run a command, or check that it could be run."""
    for words in commands(line):
        program, *arguments = words
        program = program.removeprefix(".venv/bin/")
        if program == "scripts/train":
            program, arguments = "nprobot", ["train", *arguments]
        if program == "nprobot":
            command = arguments[0] if arguments else "--help"
            assert command in COMMANDS or command.startswith("-"), line
            quick = "--dry-run" in arguments
            if not quick and (only_read or command in READ_ONLY or "--serve" in arguments):
                assert parses(arguments), line
            else:
                assert main(tiny_command(arguments)) == 0, (line, capsys.readouterr().err)
        elif program == "python":
            script, *stage = [word for word in arguments if not word.startswith("-")]
            if "-m" in arguments:
                script = f"{script.replace('.', '/')}.py"
            source = (ROOT / script).read_text("utf-8")
            if stage and script.startswith("scripts/experiments"):
                assert stage[0].replace("-", "_") in source.replace("-", "_"), line
        elif program.startswith("scripts/"):
            assert os.access(ROOT / program, os.X_OK), line
        else:
            assert program in ("pip", "git", "uv", "cd", "export", "source", "pytest"), line


def commands(line):
    """The commands of a line of shell, as words."""
    words = shlex.split(line, comments=True)
    while words:
        at = next((i for i, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
        yield words[:at]
        words = words[at + 1 :]


def parses(arguments):
    """Whether a command understands its options; it does nothing with them."""
    read = tyro.cli

    class Parsed(Exception):
        pass

    def stop(*given, **settings):
        read(*given, **settings)
        raise Parsed

    if arguments[0] not in COMMANDS:
        return main(arguments) == 0
    module = importlib.import_module(f"nprobot.cli.{arguments[0]}")
    with mock.patch.object(tyro, "cli", stop), contextlib.suppress(Parsed):
        return bool(module.main(arguments[1:]) == 0)
    return True


def tiny_command(arguments):
    command, *given = arguments
    wanted = TINY.get(command, "")
    if isinstance(wanted, dict):
        wanted = wanted.get(option(given, "--algo"), wanted["ppo"])
    if "--adapt" in given:
        wanted = "--adapt-steps 64"
    if "--resume" in given:
        wanted = "--steps 512" if command == "train" else "--epochs 2"
    tiny = shlex.split(wanted)
    drop = dict.fromkeys((word for word in tiny if word.startswith("--")), 1) | SLOW_OPTIONS
    kept = []
    while given:
        word = given.pop(0)
        if word in drop:
            del given[: drop[word]]
            while drop[word] and given and not given[0].startswith("-"):
                given.pop(0)
        else:
            kept.append(word)
    return [command, *kept, *tiny]


def option(arguments, name):
    return arguments[arguments.index(name) + 1] if name in arguments else None


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    tokens = MarkdownIt().parse(page.read_text("utf-8"))
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", token.content).lower().replace("`", "")
            yield re.sub(r"[^\w\- ]", "", title).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    """Within the repository; other addresses only have to look like one."""
    for token in MarkdownIt().parse(page.read_text("utf-8")):
        for child in token.children or []:
            target = child.attrGet("href") or child.attrGet("src")
            if target is None:
                continue
            if "://" in target:
                assert re.match(r"https?://[\w.-]+\.\w+(/\S*)?$", target), target
                continue
            file, _, anchor = target.partition("#")
            found = page.parent / file if file else page
            if found.is_relative_to(DOCS) and found.relative_to(DOCS).as_posix().startswith(
                GENERATED
            ):
                continue
            assert found.exists(), f"{name_of(page)} links to {target}"
            if anchor:
                assert anchor in anchors(found), f"{name_of(page)} links to {target}"


AMERICAN = re.compile(
    r"\b(behavior|color|favor|neighbor|center|fiber|catalog|gray|artifact|"
    r"modeling|modeled|labeled|labeling|traveled|canceled|signaling|license|defense|"
    r"\w+(?<!s)(?:al|im|ar|er|or|an|ic|if|on)iz(?:e|es|ed|ing|er|ation))s?\b",
    re.IGNORECASE,
)
"""American spellings; the pages are in British English. Code is not looked at."""
UNWANTED = re.compile(
    r"\b(whoever|whatever is|so-manieth|makes no sense|as it comes|goes on\b|go on\b|going on\b|"
    r"of (?:its|your|their|one's) own(?=[.,;:)]| (?:in|at|for|to|that|and|with|is)\b))",
    re.IGNORECASE,
)


def prose(page):
    """The text of a page without code, addresses and comments."""
    for token in MarkdownIt().enable("table").parse(page.read_text("utf-8")):
        for child in token.children or []:
            if child.type == "text":
                yield child.content


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_are_in_plain_british_english(page):
    text = " ".join(prose(page))
    assert not (AMERICAN.findall(text) + UNWANTED.findall(text))


def test_words_are_spelled():
    shown = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stdout


def test_the_readme_is_short():
    text = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    assert len([word for word in text.split() if any(map(str.isalnum, word))]) <= 700


@pytest.mark.parametrize("script", ["control.summary", "catalogue_pages"])
def test_generated_tables_are_what_the_rows_and_the_catalogue_say(script, monkeypatch):
    """Run the named script to make a page anew after its rows, rules or algorithms have changed."""
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module(f"scripts.experiments.{script}")
    sections = {}
    monkeypatch.setattr(
        module, "put_section", lambda name, lines, page: sections.update({(name, page): lines})
    )
    module.write()
    assert len(sections) >= 2
    for (name, page), lines in sections.items():
        written = page.read_text("utf-8").partition(f"<!-- {name} -->\n")[2]
        assert written.startswith("\n".join([*lines, ""])), f"{script} has news for {page}"
