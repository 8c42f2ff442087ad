"""What an import says: `import-report.csv` for what was left out and why, and lines for the screen."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from climb_model.atomic import write_text_atomic
from climb_model.intake.study import LeftOut

FILE = "import-report.csv"
COLUMNS = ("what", "exam", "num_files", "reason")


_ORDER = ("exam", "study", "phase", "report", "notice", "series", "file", "folder")
"""What matters most comes first."""


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """An import in counts. The entries quote no tag, no name and no path but for the site's own screen."""

    num_imported: int
    """Exams made by this import."""

    num_present: int
    """Exams of an earlier import that stay."""

    num_left_out: int = 0
    """Exams of the export that are not there after this import."""

    num_breasts: int
    num_reports: int
    """Breasts with a report after this import."""

    redacted: dict[str, int]
    """Kind of identifier to how many were taken out of report texts."""

    entries: tuple[LeftOut, ...]
    notices: tuple[str, ...]


def write_report(site_dir: Path, entries: Sequence[LeftOut]) -> Path:
    """Write `SITE_DIR/import-report.csv`, one row an entry, and return its path.

    Paths are not in it: folders of an export are often named after patients.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    counts: Counter[tuple[str, str, str]] = Counter()
    for each in entries:
        counts[each.what, each.study, each.reason] += each.num_files
    table.writerows((what, exam, count, reason) for (what, exam, reason), count in sorted(counts.items()))
    path = site_dir / FILE
    write_text_atomic(path, text.getvalue())
    return path


def result_lines(result: ImportResult, site_dir: Path) -> list[str]:
    """What an admin reads when the import is done: what is there, what is not and why, the rest in counts."""
    reasons = {what: Counter[str]() for what in _ORDER}
    for each in result.entries:
        reasons[each.what][_kind(each)] += 1
    lines = [
        f"{result.num_imported} exams imported, {result.num_present} were there already, "
        f"{result.num_left_out} left out; {result.num_breasts} breasts, {result.num_reports} with a report"
    ]
    if result.redacted:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(result.redacted.items()))
        lines.append(f"taken out of report texts: {counts}")
    lines += result.notices
    lines += [
        f"{count} x {what}: {reason}"
        for what, counted in reasons.items()
        for reason, count in counted.most_common()
    ]
    lines.append(f"the same exam by exam: {site_dir / FILE}")
    if result.num_breasts:
        lines.append(f"next: climb-site check {site_dir}")
    return lines


def _kind(entry: LeftOut) -> str:
    """A notice without its figures, which stand in brackets behind it and differ from exam to exam."""
    return entry.reason.partition(" (")[0] if entry.what == "notice" else entry.reason


def file_lines(entries: Sequence[LeftOut]) -> list[str]:
    """Pseudonym, path and reason of everything left out; for the site's own screen only."""
    return [
        f"{each.study or each.what} {each.path}: {each.reason}" for each in entries if each.path is not None
    ]
