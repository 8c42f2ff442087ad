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


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """An import in counts. The entries quote no tag, no name and no path but for the site's own screen."""

    num_imported: int
    """Exams made by this import."""

    num_present: int
    """Exams that an earlier import had made of the same files."""

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
    """What an admin reads when the import is done."""
    lines = [
        f"{result.num_imported} exams imported, {result.num_present} were there already, "
        f"{result.num_breasts} breasts in all, {result.num_reports} with a report"
    ]
    if result.redacted:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(result.redacted.items()))
        lines.append(f"taken out of report texts: {counts}")
    lines += result.notices
    reasons = Counter((each.what, each.reason) for each in result.entries)
    lines += [f"{count} x {what}: {reason}" for (what, reason), count in reasons.most_common()]
    lines.append(f"the same exam by exam: {site_dir / FILE}; next: climb-site check {site_dir}")
    return lines


def file_lines(entries: Sequence[LeftOut]) -> list[str]:
    """Pseudonym, path and reason of everything left out; for the site's own screen only."""
    return [
        f"{each.study or each.what} {each.path}: {each.reason}" for each in entries if each.path is not None
    ]
