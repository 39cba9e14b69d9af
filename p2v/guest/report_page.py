# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a conversion as a page for people: one HTML file that needs nothing else.

Every text may come from the guest's disk, so all of them are escaped, and the page forbids scripts
and anything from elsewhere.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from p2v.guest.report import Check, EditRecord, Found, Rehearsal, Report, Verdict
from p2v.images.durable import write_durably
from p2v.model.machine import Problem
from p2v.model.units import format_size

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_PNG = b"\x89PNG\r\n\x1a\n"
_GOOD = {Verdict.CONVERTED, Verdict.UNCHANGED, Verdict.PLANNED}
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --good: #1a7f37; --bad: #cf222e; --mild: #9a6700 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top;
  padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere }
pre { background: #8881; padding: .6rem; overflow: auto; font-size: 13px; max-height: 24rem }
img { max-width: 100%; border: 1px solid var(--line) } summary { cursor: pointer }
.good { color: var(--good) } .bad { color: var(--bad) } .mild { color: var(--mild) }
.verdict { font-size: 1.2rem; font-weight: 600 } small { opacity: .75 }
"""


def page_path(image: Path) -> Path:
    """Return where the page on the guest whose first disk is `image` lies."""
    return image.with_name(image.name + ".conversion.html")


def write_page(report: Report) -> Path:
    """Write the page beside the guest's first image, whole or not at all; return its path."""
    path = page_path(Path(report.images[0]))
    write_durably(path, render(report).encode(errors="replace"))
    return path


def render(report: Report) -> str:
    """Return the report as an HTML page."""
    name = report.found.system.hostname if report.found else ""
    title = name or Path(report.images[0]).name
    sections = [
        _head(report, title),
        _problems(report.problems),
        _rehearsal(report.rehearsal),
        _found(report.found),
        _edits(report.edits),
        _checks(report.checks),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Conversion of {escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def _head(report: Report, title: str) -> str:
    target = report.target
    where = f"{target.platform}, {target.firmware}"
    if target.generation:
        where += f", generation {target.generation}"
    made = datetime.fromtimestamp(report.created, UTC)
    hint = f"<p>{escape(report.hint)}</p>" if report.hint else ""
    rows = [
        ("images", ", ".join(report.images)),
        ("prepared for", where),
        ("changed", format_size(report.written) if report.written else "nothing"),
        ("took", f"{report.seconds:.0f} s"),
        ("made", f"{made:%Y-%m-%d %H:%M} UTC"),
    ]
    return (
        f"<h1>{escape(title)}</h1>"
        f'<p class="verdict {_style(report.verdict in _GOOD)}">'
        f"{escape(report.verdict.capitalize())}: {escape(report.summary)}</p>{hint}{_pairs(rows)}"
    )


def _problems(problems: Sequence[Problem]) -> str:
    style = {"error": "bad", "warning": "mild"}
    rows = [
        f'<tr><td class="{style.get(one.severity, "")}">{escape(one.severity)}</td>'
        f"<td>{escape(one.subject)}</td>"
        f"<td>{escape(one.message)}<br><small>{escape(one.action)}</small></td></tr>"
        for one in problems
    ]
    return _section("What to know", f"<table>{''.join(rows)}</table>") if rows else ""


def _rehearsal(rehearsal: Rehearsal | None) -> str:
    if rehearsal is None:
        return _section("Rehearsal", "<p>The guest was not rehearsed: 'p2v rehearse' does it.</p>")
    tried = "; ".join(f"{one.bus}: {one.verdict}" for one in rehearsal.attempts)
    rows = [
        ("firmware", rehearsal.firmware),
        ("disks on", tried or rehearsal.bus),
        ("accelerator", rehearsal.accelerator),
        ("took", f"{rehearsal.seconds:.0f} s"),
    ]
    parts = [
        f'<p class="verdict {_style(rehearsal.verdict == "login")}">{escape(rehearsal.text)}</p>',
        _pairs(rows),
        _list("Failed on the way", rehearsal.concerns),
        _list("What this does not show", rehearsal.limits),
        _screenshot(rehearsal.screenshot),
        _details("The last it showed", "\n".join(rehearsal.evidence)),
    ]
    return _section("Rehearsal", "".join(parts))


def _found(found: Found | None) -> str:
    if found is None:
        return ""
    system = found.system
    rows = [
        ("system", f"{system.name}, {system.architecture}"),
        ("firmware", found.firmware),
        *((detail.name, detail.value) for detail in found.details),
        ("also on these disks", ", ".join(found.others)),
    ]
    volumes = "".join(
        f"<tr><td>{escape(one.device)}</td><td>{escape(one.kind)}</td>"
        f"<td>{escape(format_size(one.size))}</td><td>{escape(one.mount_point)}</td>"
        f"<td>{escape(one.uuid)}</td></tr>"
        for one in found.volumes
    )
    head = "<tr><th>volume</th><th>holds</th><th>size</th><th>mounted on</th><th>UUID</th></tr>"
    return _section("What was found", _pairs(rows) + f"<table>{head}{volumes}</table>")


def _edits(edits: Iterable[EditRecord]) -> str:
    rows = [
        f"<tr><td>{escape(one.area)}</td><td>{escape(one.what)}"
        f"{'' if one.done else ' <b>(not done)</b>'}<br><small>{escape(one.reason)}</small>"
        + _details("before and after", _before_after(one))
        + "</td></tr>"
        for one in edits
    ]
    body = f"<table>{''.join(rows)}</table>" if rows else "<p>Nothing had to be changed.</p>"
    return _section("Edits", body)


def _before_after(edit: EditRecord) -> str:
    parts = [edit.action]
    parts += [f"--- before\n{edit.before}"] if edit.before else []
    parts += [f"--- after\n{edit.after}"] if edit.after else []
    return "\n".join(parts)


def _checks(checks: Iterable[Check]) -> str:
    rows = [
        f'<tr><td class="{_style(one.passed)}">{"passed" if one.passed else "FAILED"}</td>'
        f"<td>{escape(one.name)}</td><td>{escape(one.evidence)}</td></tr>"
        for one in checks
    ]
    return _section("Checks", f"<table>{''.join(rows)}</table>") if rows else ""


def _screenshot(encoded: str) -> str:
    """Return the picture, if it is one: the report may have passed through other hands."""
    try:
        picture = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return ""
    if not picture.startswith(_PNG):
        return ""
    plain = base64.b64encode(picture).decode()
    return f'<p><img alt="the guest\'s screen" src="data:image/png;base64,{plain}"></p>'


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}"


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    shown = (f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows if v)
    return f"<table>{''.join(shown)}</table>"


def _list(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h3>{title}</h3><ul>{items}</ul>" if items else ""


def _details(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>" if text else ""


def _style(good: bool) -> str:
    return "good" if good else "bad"
