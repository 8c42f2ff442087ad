"""The check of a site on its own screen: a table for people."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from climb_model.checking.codes import ERROR, NOTE, SEVERITIES, WARNING
from climb_model.checking.pixels import OnFile
from climb_model.checking.result import Finding, Result
from climb_model.data.exam import SPLITS
from climb_model.results import NOT_A_DEVICE, printable

MOST_SHOWN = 20
"""Identifiers listed of one finding; `--json` gives all."""

STYLES = {ERROR: "bold red", WARNING: "yellow", NOTE: "dim"}
WIDTH = 140
"""Where the output is no terminal."""


def show(result: Result, *, show_ids: bool, console: Console | None = None) -> None:
    """Print a result: counts, one row a finding, and whether the site is ready.

    Args:
        result: of `check_site`.
        show_ids: list exams, files and patients below each finding.
        console: None is standard output.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(file=console.file, highlight=False, width=WIDTH)
    console.print(Text(exam_line(result)))
    for line in class_lines(result):
        console.print(Text(line))
    table = Table(show_lines=False, pad_edge=False, box=None, padding=(0, 2, 0, 0))
    for name, justify in (("how bad", "left"), ("number", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    table.add_column("what", ratio=5)
    table.add_column("what to do", ratio=4)
    table.add_column("code", no_wrap=True, style="dim")
    for finding in result.findings:
        table.add_row(
            Text(finding.severity, style=STYLES[finding.severity]),
            str(finding.count),
            Text(printable(finding.what) + (_named(finding) if show_ids else "")),
            Text(finding.advice),
            finding.code,
        )
    if result.findings:
        console.print(table)
    console.print(Text(verdict(result)))
    console.print(Text(NOT_A_DEVICE))


def exam_line(result: Result) -> str:
    """How many exams there are and how many can be used."""
    counts = cast(dict[str, int], result.exams)
    splits = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    of_patients = f"{counts['usable']} usable exams of {counts['patients']} patients"
    return f"{counts['folders']} exam folders; {of_patients}: {splits}"


def class_lines(result: Result) -> list[str]:
    """Classes per split of all exams that have a folder and a split, where tables tell them."""
    lines: list[str] = []
    if "lesions" in result.exams:
        lesions = cast(dict[str, dict[str, int]], result.exams["lesions"])
        told = ", ".join(f"{split} {'/'.join(map(str, lesions[split].values()))}" for split in SPLITS)
        lines.append(f"Lesion 0/1/2: {told}")
    if "findings" in result.exams:
        findings = cast(dict[str, dict[str, dict[str, int]]], result.exams["findings"])
        positives = {
            name: "/".join(str(findings[split][name]["positive"]) for split in SPLITS)
            for name in findings[SPLITS[0]]
        }
        told = ", ".join(f"{name} {counts}" for name, counts in positives.items())
        lines.append(f"positive in {'/'.join(SPLITS)}: {told}")
    return lines


def verdict(result: Result) -> str:
    """One sentence at the end."""
    errors, warnings, _ = (len(result.of(severity)) for severity in SEVERITIES)
    told = f"kinds of errors: {errors}, of warnings: {warnings}"
    if result.passed:
        return f"{told}: nothing must be mended"
    return f"{told}: mend the errors before the site takes part; --show-ids names the exams"


@contextmanager
def progress_bar() -> Generator[OnFile]:
    """A bar on standard error while pixels are read; nothing where that is no terminal."""
    console = Console(stderr=True, highlight=False)
    with Progress(
        TextColumn("images read"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _named(finding: Finding) -> str:
    shown = ", ".join(printable(who) for who in finding.who[:MOST_SHOWN])
    more = f" and {len(finding.who) - MOST_SHOWN} more" if len(finding.who) > MOST_SHOWN else ""
    return f"\n{shown}{more}" if shown else ""
