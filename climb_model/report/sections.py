"""The parts of a page that tell a result: AUC table, ROC curves, calibration and thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from climb_model.evaluation.statistics import roc_curve
from climb_model.report.card_data import counted
from climb_model.report.charts import interval_axis, interval_bar, roc_chart
from climb_model.report.html import Html, join, safe, tag
from climb_model.report.inputs import AucEntry, Result
from climb_model.report.style import STYLE
from climb_model.results import (
    NOT_A_DEVICE,
    auc_text,
    interval_text,
    labelled,
    mean_interval,
    number_text,
    operating_sentence,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Content security policy: the page loads nothing and runs nothing, whatever it was made to contain."""

ZERO_SHOT = (
    "Zero-shot diagnosis asks whether an exam is nearer to “X.” or to “Kein X.”; the AUC is the chance that "
    "an exam with the finding scores above one without it."
)
CALIBRATION = (
    "Brier score: mean squared distance of probability and truth, 0 is perfect. Calibration error: mean gap "
    "between probability and share of exams with the finding, over ten bins. A finding's specificity is the "
    "one that its threshold reached on the reported exams, not the one wanted."
)


def whole_page(title: str, about: str, parts: list[Html]) -> str:
    """A page of these parts between its head and its foot."""
    head = tag(
        "head",
        None,
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("title", None, title),
        tag("style", None, Html(STYLE)),
    )
    intro = tag(
        "header",
        None,
        tag("h1", None, title),
        tag("p", {"class": "device"}, NOT_A_DEVICE),
        tag("p", None, about),
    )
    foot = tag("footer", None, f"{NOT_A_DEVICE} Intervals: 95 %, bootstrap over patients.")
    body = tag("body", None, tag("main", None, join([intro, *parts, foot], "\n")))
    return f'<!doctype html>\n<html lang="en">\n{join([head, body], safe(chr(10)))}\n</html>\n'


def tiles(entries: list[tuple[str, str, str]]) -> Html:
    """The numbers at the top: name, value, and a remark."""
    made = [
        tag("li", None, tag("b", None, value), tag("small", None, name), tag("i", None, more))
        for name, value, more in entries
    ]
    return tag("ul", {"class": "headline"}, *made)


def mean_tile(result: Result, value: str, when: str = "") -> tuple[str, str, str]:
    """The tile of the mean AUC: over how many findings it is, and its interval.

    Args:
        when: after `95 % interval`.
    """
    if not labelled(result.summary):
        return "mean zero-shot AUC", "not measured: no labels", ""
    number, defined = len(result.table), sum(entry.auc is not None for entry in result.table.values())
    findings = f"the {defined} of {number} findings that are defined"
    interval = interval_text(*mean_interval(result.summary))
    return (
        f"mean zero-shot AUC over {counted(number, 'finding') if defined == number else findings}",
        value,
        f"95 % interval {when}{interval}" if interval else "no interval",
    )


def auc_section(result: Result) -> Html:
    """AUC of each finding with its interval, and their mean."""
    rows = list(result.table.items())
    lows = [value for _, row in rows for value in (row.auc, row.ci_low) if value is not None]
    floor = max(0.0, min(0.4, math.floor(min(lows, default=0.4) * 10) / 10))
    head = table_row(
        "th",
        ["finding", interval_axis(floor=floor), "AUC", "with / without"],
        ["", "bar", "number", "number count"],
    )
    body = [_auc_row(finding, entry, floor) for finding, entry in rows]
    low, high = mean_interval(result.summary)
    mean = AucEntry(
        auc=cast("float | None", result.summary.get("mean_auc")),
        ci_low=low,
        ci_high=high,
        positives=0,
        negatives=0,
    )
    undefined = [finding for finding, entry in rows if entry.auc is None]
    total = _auc_row("mean of the defined" if undefined else "mean", mean, floor, {"class": "total"})
    notes = [tag("p", {"class": "note"}, "AUC with its 95 % interval; exams with and without the finding.")]
    if undefined:
        words = f"Undefined, because no exam has it or none is without it: {', '.join(undefined)}."
        notes.append(tag("p", {"class": "note"}, words))
    table = tag("table", {"class": "forest"}, tag("thead", None, head), tag("tbody", None, *body, total))
    return section("AUC of each finding", *notes, table)


def _auc_row(
    finding: str, entry: AucEntry, floor: float, attributes: Mapping[str, str] | None = None
) -> Html:
    interval = tag("span", {"class": "ci"}, interval_text(entry.ci_low, entry.ci_high))
    known = entry.positives + entry.negatives > 0
    below = f"{entry.positives} with, {entry.negatives} without" if known else ""
    cells = [
        join([finding, tag("span", {"class": "below"}, below)]),
        interval_bar(entry.ci_low, entry.auc, entry.ci_high, floor=floor),
        join([auc_text(entry.auc), " ", interval]),
        f"{entry.positives} / {entry.negatives}" if known else "",
    ]
    return table_row("td", cells, ["", "bar", "number", "number count"], attributes)


def roc_section(result: Result) -> Html:
    """A ROC curve for each finding that has one."""
    figures: list[Html] = []
    for finding, entry in result.table.items():
        name = tag("h3", None, finding)
        if entry.positives and entry.negatives:
            false, true = roc_curve(result.predictions.scores[finding], result.predictions.labels[finding])
            drawn = roc_chart(false.tolist(), true.tolist(), name=finding)
            figures.append(tag("figure", None, name, tag("p", None, f"AUC {auc_text(entry.auc)}"), drawn))
        else:
            figures.append(tag("figure", None, name, tag("p", None, "undefined: one kind of exam only")))
    return section("ROC curves", tag("div", {"class": "multiples"}, *figures))


def operating_section(result: Result) -> Html:
    """Calibration of each finding and what its threshold does; nothing for a run that recorded neither."""
    if not result.operating:
        return Html("")
    columns = ["Brier score", "calibration error", "threshold", "sensitivity", "specificity"]
    classes = ["", *["number"] * len(columns)]
    body = [
        table_row(
            "td",
            [
                finding,
                *map(
                    number_text,
                    (row.brier, row.calibration_error, row.threshold, row.sensitivity, row.specificity),
                ),
            ],
            classes,
        )
        for finding, row in result.operating.items()
    ]
    head = table_row("th", ["finding", *columns], classes)
    table = tag("table", None, tag("thead", None, head), tag("tbody", None, *body))
    return section(
        "Calibration and thresholds",
        tag("p", {"class": "note"}, f"{operating_sentence(result.summary)} {CALIBRATION}"),
        tag("div", {"class": "scroll"}, table),
    )


def settings_section(result: Result) -> Html:
    """Every value of `config.yaml`."""
    words = f"Preset {result.settings.preset}, seed {result.settings.seed}; every value of config.yaml."
    return section(
        "Settings", tag("p", {"class": "note"}, words), tag("pre", None, result.settings_text.strip())
    )


def section(title: str, *children: Html) -> Html:
    """A part of the page below its heading."""
    return tag("section", None, tag("h2", None, title), *children)


def table_row(
    cell: str, texts: list[str], classes: list[str], attributes: Mapping[str, str] | None = None
) -> Html:
    """A line of a table of `th` or `td` cells."""
    cells = [
        tag(cell, {"class": name} if name else None, text) for text, name in zip(texts, classes, strict=True)
    ]
    return tag("tr", attributes, *cells)
