"""The mark that a site's reports, or some of them, were made from a class and written by nobody."""

from __future__ import annotations

import json
from pathlib import Path

from climb_model.atomic import write_text_atomic
from climb_model.data.made_reports import is_made
from climb_model.intake.reports.site_tables import FOLDER
from climb_model.intake.site_records import read_reports

MARKER = "reports-made.json"
"""Beside reports.csv: `{"kind": "made from Lesion", "count": n}`."""


def write_marker(site_dir: Path) -> int:
    """Count the made texts in reports.csv and write the mark, or take it away where there are none."""
    count = sum(map(is_made, read_reports(site_dir).values()))
    path = site_dir / FOLDER / MARKER
    if count:
        write_text_atomic(path, json.dumps({"kind": "made from Lesion", "count": count}) + "\n")
    else:
        path.unlink(missing_ok=True)
    return count
