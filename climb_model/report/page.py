"""`report.html`: a finished run on one page without scripts and outside resources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from climb_model.atomic import write_text_atomic
from climb_model.report.card_data import counted
from climb_model.report.card_privacy import reused_generators
from climb_model.report.curves import auc_curves, loss_curves
from climb_model.report.html import Html, tag
from climb_model.report.inputs import RunInputs, read_run
from climb_model.report.sections import (
    ZERO_SHOT,
    auc_section,
    mean_tile,
    operating_section,
    roc_section,
    section,
    settings_section,
    table_row,
    tiles,
    whole_page,
)
from climb_model.results import (
    auc_text,
    notice_lines,
    synthetic_line,
    trained_alone,
    whose_exams,
)
from climb_model.sharing import HELLO_NUMBERS, HELLO_WORDS

MEGABYTE = 1e6

TOGETHER = (
    "Hospitals trained one model on breast MRI and German reports together: exams and reports stayed where "
    "they are, and only what is listed below travelled."
)
SIMULATED = (
    "Simulated on one machine, which read all exams and reports: virtual hospitals trained one model on "
    "breast MRI and German reports together, and exchanged the weights listed below."
)
BY_ITSELF = (
    "One site trained a model on its own breast MRI and German reports; it took part in no federation."
)
PROMISE = (
    "Exams and reports are not sent. Weights can still give away some of what they were trained on: without "
    "differential privacy there is no formal guarantee."
)
NOTHING_LEFT = (
    "Nothing: this training sent nothing anywhere. Whoever passes on shared.safetensors, which holds the "
    "tensors below, passes on weights that can give away some of what they were trained on."
)

HELLO_IN_WORDS = {
    "site": "its name",
    "version": "the version of its program",
    "versions": "the versions of its libraries",
    "fingerprint": "hashes of its frozen encoders",
    "settings": "a hash of its settings",
    "summary": "its exams in counts",
    "notices": "notices in counts",
    "num-examples": "the number of its training exams",
    "clock": "the time of its clock",
}

CARD_BESIDE = "What these weights are fit for, and what not: model_card.md, beside this page."


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
    alone, synthetic = _alone(inputs), synthetic_line(inputs.summary)
    about = BY_ITSELF if alone else SIMULATED if inputs.simulated else TOGETHER
    title = f"CLIMB: {inputs.study or ('one site alone' if alone else 'a federated run')}"
    parts = [
        *([tag("p", {"class": "device"}, synthetic)] if synthetic else []),
        _headline(inputs),
        *_notices(inputs),
        section("AUC over the rounds", *_curves(inputs)),
        *(_measured(inputs) if inputs.predictions.num_exams else []),
        _sites(inputs),
        *([] if alone else [_rejected(inputs)]),
        _what_left(inputs),
        settings_section(inputs),
    ]
    return whole_page(title, f"{about} {ZERO_SHOT}", parts)


def _measured(inputs: RunInputs) -> list[Html]:
    return [auc_section(inputs), roc_section(inputs), operating_section(inputs)]


def _alone(inputs: RunInputs) -> bool:
    return trained_alone(inputs.summary)


def _notices(inputs: RunInputs) -> list[Html]:
    lines = [tag("li", None, line) for line in notice_lines(inputs.summary)]
    return [section("Notices", tag("ul", None, *lines))] if lines else []


def _curves(inputs: RunInputs) -> list[Html]:
    if not inputs.predictions.num_exams:
        return [tag("p", None, "Undefined in every round: there were no labelled exams to measure it on.")]
    words = f"On {whose_exams(inputs.summary)}; round 0 is before training."
    return [tag("p", {"class": "note"}, words), auc_curves(inputs)]


def _headline(inputs: RunInputs) -> Html:
    start, end = inputs.history[0], cast("float | None", inputs.summary.get("mean_auc"))
    exams = cast(Mapping[str, int], inputs.summary["exams"])
    seen, rounds = inputs.predictions, cast(int, inputs.summary["rounds"])
    up, down = _travelled(inputs)
    travels = ("travels per site and round", f"{up:.1f} MB up, {down:.1f} MB down", _shared_in_short(inputs))
    entries = [
        mean_tile(inputs, f"{auc_text(start.mean_auc)} → {auc_text(end)}", "at the end "),
        ("travels", "nothing", _shared_in_short(inputs)) if _alone(inputs) else travels,
        (_noun(rounds, "round"), str(rounds), counted(inputs.history[-1].global_step, "global step")),
        (_noun(len(exams), "site"), str(len(exams)), counted(sum(exams.values()), "training exam")),
        (
            whose_exams(inputs.summary).removeprefix("the "),
            str(seen.num_exams),
            f"of {counted(seen.num_patients, 'patient')}",
        ),
        ("time", _duration(cast(float, inputs.summary["seconds"])), f"engine {inputs.summary.get('engine')}"),
    ]
    return tiles(entries)


def _noun(number: int, what: str) -> str:
    return counted(number, what).removeprefix(f"{number} ")


def _sites(inputs: RunInputs) -> Html:
    exams = cast(Mapping[str, int], inputs.summary["exams"])
    columns = ["exams", "rounds", "steps", "first loss", "last loss"]
    columns += [] if _alone(inputs) else ["MB up", "MB down"]
    classes = ["", *["number"] * len(columns)]
    head = table_row("th", ["site", *columns], classes)
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
        body.append(table_row("td", cells[: len(classes)], classes))
    table = tag("table", None, tag("thead", None, head), tag("tbody", None, *body))
    return section("Sites", tag("div", {"class": "scroll"}, table), loss_curves(inputs.history, list(exams)))


def _rejected(inputs: RunInputs) -> Html:
    entries = [(record.round, entry) for record in inputs.history for entry in record.rejected]
    if not entries:
        return section(
            "Rejected sites and replies",
            tag("p", None, "None: every site was admitted and every reply passed the server's checks."),
        )
    head = table_row("th", ["round", "site", "reason"], ["", "", ""])
    body = [
        table_row("td", [str(number), entry["site"], entry["reason"]], ["", "", "words"])
        for number, entry in entries
    ]
    table = tag("table", None, tag("thead", None, head), tag("tbody", None, *body))
    note = tag(
        "p",
        {"class": "note"},
        "Left out of the average; the others went on. Round 0: not admitted to the study.",
    )
    return section("Rejected sites and replies", note, table)


def _what_left(inputs: RunInputs) -> Html:
    up, down = _travelled(inputs)
    hello = [HELLO_IN_WORDS.get(key, key) for key in (*HELLO_WORDS, *HELLO_NUMBERS)]
    first = f"Before the first round a site sent {', '.join(hello[:-1])} and {hello[-1]}."
    words = (
        f"In each round a site received {down:.1f} MB and sent {up:.1f} MB: {_shared_in_short(inputs)}, with "
        "the number of its training exams and steps, its mean loss and its seconds."
    )
    alone = _alone(inputs)
    parts = [tag("p", None, told) for told in ((NOTHING_LEFT,) if alone else (first, words, PROMISE))]
    parts += [tag("p", None, tag("b", None, told)) for told in reused_generators(inputs.settings)]
    if inputs.shared:
        entries = [
            tag("li", None, tag("code", None, name), tag("span", None, " × ".join(map(str, shape)) or "1"))
            for name, shape in inputs.shared.items()
        ]
        parts.append(tag("ul", {"class": "tensors"}, *entries))
    if inputs.has_card:
        parts.append(tag("p", None, CARD_BESIDE))
    return section("What left the site" if alone else "What left each hospital", *parts)


def _travelled(inputs: RunInputs) -> tuple[float, float]:
    """Mean megabytes up and down for each site and round that trained."""
    traffic = [site for record in inputs.history for site in record.sites.values()]
    count = max(len(traffic), 1) * MEGABYTE
    return sum(site.bytes_up for site in traffic) / count, sum(site.bytes_down for site in traffic) / count


def _shared_in_short(inputs: RunInputs) -> str:
    tensors, weights = inputs.summary.get("shared_tensors"), inputs.summary.get("shared_parameters")
    if isinstance(tensors, int) and isinstance(weights, int):
        return f"{weights:,} weights in {tensors} tensors"
    return "the shared weights"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{seconds:.1f} s"
