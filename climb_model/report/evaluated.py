"""`report.html` of an evaluation: weights of a run, measured again on one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from climb_model.atomic import write_text_atomic
from climb_model.report.html import tag
from climb_model.report.inputs import Result, read_result
from climb_model.report.sections import (
    ZERO_SHOT,
    auc_section,
    mean_tile,
    operating_section,
    roc_section,
    section,
    settings_section,
    tiles,
    whole_page,
)
from climb_model.results import auc_text, labelled, retrieval_lines

ABOUT = "Weights that were trained on breast MRI and German reports, measured on one folder of exams."


def write_evaluation_report(folder: Path) -> Path:
    """Write `report.html` into the folder of an evaluation.

    Returns:
        The page's path.

    Raises:
        ValueError: one line naming the file of the folder that is missing or broken.
    """
    target = folder / "report.html"
    write_text_atomic(target, evaluation_page(read_result(folder)))
    return target


def evaluation_page(result: Result) -> str:
    """The whole page as a text."""
    summary, seen = result.summary, result.predictions
    place = cast(Mapping[str, str], summary["measured_on"])
    entries = [
        mean_tile(result, auc_text(cast("float | None", summary["mean_auc"]))),
        (f"exams of {place['site']}", str(seen.num_exams), f"of {seen.num_patients} patients"),
        ("split", place["split"], f"{summary['validation_exams']} validation exams chose the thresholds"),
        ("weights", f"round {summary['rounds']}", f"settings {summary['config_hash']}"),
    ]
    notices, retrieved = cast(Sequence[str], summary["central_notices"]), retrieval_lines(summary)
    told = tag("ul", None, *(tag("li", None, line) for line in notices))
    parts = [
        tiles(entries),
        *([section("Notices", told)] if notices else []),
        *([auc_section(result), roc_section(result), operating_section(result)] if labelled(summary) else []),
        *([section("Retrieval", tag("pre", None, "\n".join(retrieved)))] if retrieved else []),
        settings_section(result),
    ]
    return whole_page(f"CLIMB: evaluation on {place['site']}", f"{ABOUT} {ZERO_SHOT}", parts)
