"""`report.html`: a finished run on one page without scripts and outside resources."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from climb_model.atomic import write_text_atomic
from climb_model.evaluation.statistics import roc_curve
from climb_model.report.charts import interval_axis, interval_bar, roc_chart
from climb_model.report.curves import auc_curves, loss_curves
from climb_model.report.html import Html, join, safe, tag
from climb_model.report.inputs import AucEntry, RunInputs, read_run
from climb_model.report.style import STYLE
from climb_model.results import NOT_A_DEVICE, auc_text, interval_text, mean_interval

MEGABYTE = 1e6
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Content security policy: the page loads nothing and runs nothing, whatever it was made to contain."""

ABOUT = (
    "Hospitals trained one model on breast MRI and German reports together: exams and reports stayed where "
    "they are, and only the weights listed below travelled. Zero-shot diagnosis asks whether an exam is "
    "nearer to “X.” or to “Kein X.”; the AUC is the chance that an exam with the finding scores above one "
    "without it."
)
PROMISE = (
    "Exams and reports are not sent. Weights can still give away some of what they were trained on: without "
    "differential privacy there is no formal guarantee."
)
CURVES = "On the server's own exams; round 0 is before training."


def write_report(run: Path) -> Path:
    """Write `report.html` into a finished run's folder.

    Returns:
        The page's path.

    Raises:
        ValueError: one line naming the file of the run that is missing or broken.
    """
    target = run / "report.html"
    write_text_atomic(target, page(read_run(run)))
    return target


def page(inputs: RunInputs) -> str:
    """The whole page as a text."""
    title = f"CLIMB: {inputs.study}" if inputs.study else "CLIMB: a federated run"
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
        tag("p", None, ABOUT),
    )
    parts = [
        intro,
        _headline(inputs),
        _section("AUC over the rounds", tag("p", {"class": "note"}, CURVES), auc_curves(inputs)),
        _auc_table(inputs),
        _roc_curves(inputs),
        _sites(inputs),
        _rejected(inputs),
        _what_left(inputs),
        _settings(inputs),
        tag("footer", None, f"{NOT_A_DEVICE} Intervals: 95 %, bootstrap over patients."),
    ]
    body = tag("body", None, tag("main", None, join(parts, "\n")))
    return f'<!doctype html>\n<html lang="en">\n{join([head, body], safe(chr(10)))}\n</html>\n'


def _headline(inputs: RunInputs) -> Html:
    start, end = inputs.history[0], cast("float | None", inputs.summary.get("mean_auc"))
    interval = interval_text(*mean_interval(inputs.summary))
    exams = cast(Mapping[str, int], inputs.summary["exams"])
    seen = inputs.predictions
    up, down = _travelled(inputs)
    entries = [
        (
            f"mean zero-shot AUC over {len(inputs.table)} findings",
            f"{auc_text(start.mean_auc)} → {auc_text(end)}",
            f"95 % interval at the end {interval}" if interval else "no interval",
        ),
        ("travels per site and round", f"{up:.1f} MB up, {down:.1f} MB down", _shared_in_short(inputs)),
        ("rounds", str(inputs.summary["rounds"]), f"{inputs.history[-1].global_step} global steps"),
        ("sites", str(len(exams)), f"{sum(exams.values())} training exams"),
        ("server's own exams", str(seen.num_exams), f"of {seen.num_patients} patients"),
        ("time", _duration(cast(float, inputs.summary["seconds"])), f"engine {inputs.summary.get('engine')}"),
    ]
    tiles = [
        tag("li", None, tag("b", None, value), tag("small", None, name), tag("i", None, more))
        for name, value, more in entries
    ]
    return tag("ul", {"class": "headline"}, *tiles)


def _auc_table(inputs: RunInputs) -> Html:
    rows = list(inputs.table.items())
    lows = [value for _, row in rows for value in (row.auc, row.ci_low) if value is not None]
    floor = max(0.0, min(0.4, math.floor(min(lows, default=0.4) * 10) / 10))
    head = _row(
        "th",
        ["finding", interval_axis(floor=floor), "AUC", "with / without"],
        ["", "bar", "number", "number count"],
    )
    body = [_auc_row(finding, entry, floor) for finding, entry in rows]
    low, high = mean_interval(inputs.summary)
    mean = AucEntry(
        auc=cast("float | None", inputs.summary.get("mean_auc")),
        ci_low=low,
        ci_high=high,
        positives=0,
        negatives=0,
    )
    undefined = [finding for finding, entry in rows if entry.auc is None]
    total = _auc_row("mean of the defined" if undefined else "mean", mean, floor, {"class": "total"})
    notes = [
        tag("p", {"class": "note"}, "AUC at the last round with its 95 % interval; exams with and without.")
    ]
    if undefined:
        words = f"Undefined, because no exam has it or none is without it: {', '.join(undefined)}."
        notes.append(tag("p", {"class": "note"}, words))
    table = tag("table", {"class": "forest"}, tag("thead", None, head), tag("tbody", None, *body, total))
    return _section("AUC of each finding", *notes, table)


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
    return _row("td", cells, ["", "bar", "number", "number count"], attributes)


def _roc_curves(inputs: RunInputs) -> Html:
    figures: list[Html] = []
    for finding, entry in inputs.table.items():
        name = tag("h3", None, finding)
        if entry.positives and entry.negatives:
            false, true = roc_curve(inputs.predictions.scores[finding], inputs.predictions.labels[finding])
            drawn = roc_chart(false.tolist(), true.tolist(), name=finding)
            figures.append(tag("figure", None, name, tag("p", None, f"AUC {auc_text(entry.auc)}"), drawn))
        else:
            figures.append(tag("figure", None, name, tag("p", None, "undefined: one kind of exam only")))
    return _section("ROC curves", tag("div", {"class": "multiples"}, *figures))


def _sites(inputs: RunInputs) -> Html:
    exams = cast(Mapping[str, int], inputs.summary["exams"])
    head = _row(
        "th",
        ["site", "exams", "rounds", "steps", "first loss", "last loss", "MB up", "MB down"],
        ["", *["number"] * 7],
    )
    body: list[Html] = []
    for name in exams:
        taken = [record.sites[name] for record in inputs.history if name in record.sites]
        cells = [
            name,
            str(exams[name]),
            str(len(taken)),
            str(sum(site.steps for site in taken)),
            f"{taken[0].loss:.3f}" if taken else "",
            f"{taken[-1].loss:.3f}" if taken else "",
            f"{sum(site.bytes_up for site in taken) / MEGABYTE:.1f}",
            f"{sum(site.bytes_down for site in taken) / MEGABYTE:.1f}",
        ]
        body.append(_row("td", cells, ["", *["number"] * 7]))
    table = tag("table", None, tag("thead", None, head), tag("tbody", None, *body))
    return _section("Sites", tag("div", {"class": "scroll"}, table), loss_curves(inputs.history, list(exams)))


def _rejected(inputs: RunInputs) -> Html:
    entries = [(record.round, entry) for record in inputs.history for entry in record.rejected]
    if not entries:
        return _section(
            "Rejected sites and replies",
            tag("p", None, "None: every site was admitted and every reply passed the server's checks."),
        )
    head = _row("th", ["round", "site", "reason"], ["", "", ""])
    body = [
        _row("td", [str(number), entry["site"], entry["reason"]], ["", "", "words"])
        for number, entry in entries
    ]
    table = tag("table", None, tag("thead", None, head), tag("tbody", None, *body))
    note = tag(
        "p",
        {"class": "note"},
        "Left out of the average; the others went on. Round 0: not admitted to the study.",
    )
    return _section("Rejected sites and replies", note, table)


def _what_left(inputs: RunInputs) -> Html:
    up, down = _travelled(inputs)
    words = (
        f"In each round a site received {down:.1f} MB and sent {up:.1f} MB: {_shared_in_short(inputs)}, with "
        "the number of its training exams and steps, its mean loss and its seconds."
    )
    parts = [tag("p", None, words), tag("p", None, PROMISE)]
    if inputs.shared:
        entries = [
            tag("li", None, tag("code", None, name), tag("span", None, " × ".join(map(str, shape)) or "1"))
            for name, shape in inputs.shared.items()
        ]
        parts.append(tag("ul", {"class": "tensors"}, *entries))
    return _section("What left each hospital", *parts)


def _settings(inputs: RunInputs) -> Html:
    words = f"Preset {inputs.settings.preset}, seed {inputs.settings.seed}; every value of config.yaml."
    return _section(
        "Settings", tag("p", {"class": "note"}, words), tag("pre", None, inputs.settings_text.strip())
    )


def _travelled(inputs: RunInputs) -> tuple[float, float]:
    """Mean megabytes up and down for each site and round that trained."""
    traffic = [site for record in inputs.history for site in record.sites.values()]
    count = max(len(traffic), 1) * MEGABYTE
    return sum(site.bytes_up for site in traffic) / count, sum(site.bytes_down for site in traffic) / count


def _shared_in_short(inputs: RunInputs) -> str:
    tensors, weights = inputs.summary.get("shared_tensors"), inputs.summary.get("shared_parameters")
    if isinstance(tensors, int) and isinstance(weights, int):
        return f"{tensors} tensors of {weights:,} weights"
    return "the shared weights"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{seconds:.1f} s"


def _section(title: str, *children: Html) -> Html:
    return tag("section", None, tag("h2", None, title), *children)


def _row(
    cell: str, texts: list[str], classes: list[str], attributes: Mapping[str, str] | None = None
) -> Html:
    cells = [
        tag(cell, {"class": name} if name else None, text) for text, name in zip(texts, classes, strict=True)
    ]
    return tag("tr", attributes, *cells)
