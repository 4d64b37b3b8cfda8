"""A report as one HTML file: styles and pictures are in it, nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .tables import Table

STYLE = """
:root { --ink: #1b1f24; --soft: #5a646f; --line: #e3e7eb; --fill: #f6f8fa; --accent: #08519c; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  color: var(--ink); max-width: 1120px; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 3rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
p.lead { font-size: 1.08rem; }
p.sub, p.note { color: var(--soft); font-size: .9rem; }
p, ul, dl { max-width: 78ch; }
nav { margin: 1.25rem 0 0; font-size: .92rem; display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; }
nav a, a { color: var(--accent); text-decoration: none; }
.scroll { overflow-x: auto; margin: 1rem 0 .25rem; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .34rem .8rem .34rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; white-space: normal;
  min-width: 5.5rem; }
th:first-child, td:first-child { text-align: left; }
td:first-child { font-weight: 500; }
table.words td, table.words th { text-align: left; white-space: normal; vertical-align: top;
  min-width: 3.5rem; }
table.words td:first-child { min-width: 9rem; }
tr:hover td { background: var(--fill); }
td.best { font-weight: 700; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0 0 0 1.2rem; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: 0 .9rem; }
summary { cursor: pointer; padding: .5rem 0; font-weight: 500; }
code { font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.tabs > input { position: absolute; opacity: 0; }
.tabs > label { display: inline-block; padding: .3rem .8rem; margin: 0 .3rem .3rem 0;
  border: 1px solid var(--line); border-radius: 99px; cursor: pointer; font-size: .88rem; }
.tabs > input:checked + label { background: var(--accent); border-color: var(--accent);
  color: #fff; }
.tabs > input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
.tabs > div { display: none; }
@media print { .tabs > div { display: block !important; } .tabs > label { display: none; } }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Attributes:
        title: the heading.
        text: paragraphs.
        bullets: a list.
        items: name → sentences.
        pictures: caption → PNG.
        tabs: show one picture at a time, chosen by its caption.
        tables: shown as they are.
        folded: title → tables that open on a click.
    """

    title: str
    text: Sequence[str] = ()
    bullets: Sequence[str] = ()
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    tabs: bool = False
    tables: Sequence[Table] = ()
    folded: Mapping[str, Sequence[Table]] = field(default_factory=dict)


def html_page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """The page as text."""
    numbers = itertools.count()
    links = "".join(f'<a href="#{_anchor(s.title)}">{html.escape(s.title)}</a>' for s in sections)
    tab_rules: list[str] = []
    body = "".join(_section(section, numbers, tab_rules) for section in sections)
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{''.join(tab_rules)}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>"
        f'<p class="sub">{html.escape(subtitle)}</p><nav>{links}</nav>\n{body}</body></html>\n'
    )


def _section(section: Section, numbers: itertools.count[int], tab_rules: list[str]) -> str:
    parts = [f'<h2 id="{_anchor(section.title)}">{html.escape(section.title)}</h2>']
    parts += [f'<p class="lead">{html.escape(text)}</p>' for text in section.text]
    if section.bullets:
        points = "".join(f"<li>{html.escape(text)}</li>" for text in section.bullets)
        parts.append(f"<ul>{points}</ul>")
    if section.items:
        entries = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(' '.join(said))}</dd>"
            for name, said in section.items.items()
        )
        parts.append(f"<dl>{entries}</dl>")
    if section.tabs:
        parts.append(_tabs(section.pictures, numbers, tab_rules))
    else:
        parts += [_picture(section.title, name, png) for name, png in section.pictures.items()]
    parts += [_table(table) for table in section.tables]
    for name, folded in section.folded.items():
        inside = "".join(map(_table, folded))
        parts.append(f"<details><summary>{html.escape(name)}</summary>{inside}</details>")
    return "\n".join(parts) + "\n"


def _tabs(pictures: Mapping[str, bytes], numbers: itertools.count[int], rules: list[str]) -> str:
    """Pictures of which one is shown, chosen without a script: radio buttons and styles."""
    group = next(numbers)
    choices, panes = [], []
    for index, (name, png) in enumerate(pictures.items()):
        key = f"tab{group}-{index}"
        checked = " checked" if index == 0 else ""
        choices.append(
            f'<input type="radio" name="tabs{group}" id="{key}"{checked}>'
            f'<label for="{key}">{html.escape(name)}</label>'
        )
        panes.append(f'<div id="{key}-pane">{_picture("Learning curves", name, png)}</div>')
        rules.append(f"#{key}:checked ~ #{key}-pane {{ display: block; }}\n")
    return f'<div class="tabs">{"".join(choices)}{"".join(panes)}</div>'


def _picture(title: str, name: str, png: bytes) -> str:
    alt = html.escape(f"{title}: {name}" if name else title)
    data = base64.b64encode(png).decode()
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">'


def _table(table: Table) -> str:
    words = any(len(cell) > 30 for row in table.rows for cell in row)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=best' if (i, j) in table.mark else ''}>{_cell(cell)}</td>"
            for j, cell in enumerate(row)
        )
        + "</tr>"
        for i, row in enumerate(table.rows)
    )
    kind = ' class="words"' if words else ""
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def _cell(text: str) -> str:
    escaped = html.escape(text)
    return f"<code>{escaped}</code>" if text.startswith("nprobot ") else escaped


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")
