"""Whether exams were drawn, by the record that `climb-sim make-data` leaves beside its hospitals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from climb_model.data.synthetic import RECORD
from climb_model.report.card import write_card
from climb_model.runs import RunFolder


def record_of(data: Path) -> dict[str, object] | None:
    """The record in a site's folder or the one above; None: there is none, or a file of another kind."""
    for file in (data / RECORD, data.parent / RECORD):
        try:
            values = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(values, dict):
            record = cast(dict[str, object], values)
            if str(record.get("kind")).startswith("synthetic"):
                return record
    return None


def tell_origin(run: RunFolder, summary: dict[str, object], data: Path) -> None:
    """Write into a finished run's summary and model card that its exams were drawn, if they were.

    Args:
        summary: gets the record as `data`.
        data: the folder of one of its sites.
    """
    record = record_of(data)
    if record is not None:
        summary["data"] = record
        run.write_summary(summary)
        write_card(run)
