"""A finished run in words: the table of findings, and what it is compared with."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import cast

NOT_A_DEVICE = "Research use, not a medical device."

ALONE = "alone"
"""The `engine` of a run in which one site trained without a federation."""


def printable(text: str) -> str:
    """The text without line breaks and control codes, which a peer's words could hold."""
    return "".join(" " if unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp") else sign for sign in text)


def auc_text(value: float | None) -> str:
    """Three decimals, or the word for a finding without positive or negative exams."""
    return "undefined" if value is None else f"{value:.3f}"


def number_text(value: float | None) -> str:
    """Three decimals, or a dash where there is no number."""
    return "-" if value is None else f"{value:.3f}"


def interval_text(low: float | None, high: float | None) -> str:
    """`[0.700, 0.812]`, or nothing where there is no interval."""
    return "" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


NOT_MEASURED = "not measured: no exam has a finding in findings.csv for the split that is measured"


def result_lines(summary: Mapping[str, object]) -> list[str]:
    """What a run ends with: the table of findings, and what is to be known about it.

    Args:
        summary: as in `summary.json`.
    """
    measured = auc_lines(summary) if labelled(summary) else [NOT_MEASURED]
    return [*measured, *notice_lines(summary), *comparison_lines(summary), NOT_A_DEVICE]


def evaluation_lines(summary: Mapping[str, object]) -> list[str]:
    """What an evaluation ends with: the table of findings, calibration and thresholds, retrieval.

    Args:
        summary: with `measured_on`, as in `summary.json`.
    """
    retrieved = retrieval_lines(summary)
    place = cast(Mapping[str, str], summary["measured_on"])
    return [
        f"{summary['central_exams']} exams of {printable(place['site'])}, split {place['split']}",
        *(printable(line) for line in cast(Sequence[str], summary["central_notices"])),
        *(["", *auc_lines(summary), "", *operating_lines(summary)] if labelled(summary) else []),
        *(["", *retrieved] if retrieved else []),
        NOT_A_DEVICE,
    ]


def labelled(summary: Mapping[str, object]) -> bool:
    """Whether any exam of a result has a known finding."""
    table = cast(Mapping[str, Mapping[str, float | None]], summary["auc_table"])
    return any(row["positives"] or row["negatives"] for row in table.values())


def auc_lines(summary: Mapping[str, object]) -> list[str]:
    """AUC with its interval over patients for each finding, then the mean."""
    table = cast(Mapping[str, Mapping[str, float | None]], summary["auc_table"])
    width = max([len("mean of all findings"), *(len(printable(finding)) for finding in table)])
    lines = [f"{'finding':<{width}}  {'AUC':>9}  {'95 % interval':^16}  {'positive':>8}  {'negative':>8}"]
    lines.append("-" * len(lines[0]))
    for finding, row in table.items():
        interval = interval_text(row["ci_low"], row["ci_high"])
        lines.append(
            f"{printable(finding):<{width}}  {auc_text(row['auc']):>9}  {interval:^16}  "
            f"{row['positives']:>8}  {row['negatives']:>8}"
        )
    lines.append(lines[1])
    undefined = [finding for finding, row in table.items() if row["auc"] is None]
    label = "mean of the defined" if undefined else "mean of all findings"
    mean = cast("float | None", summary["mean_auc"])
    low, high = mean_interval(summary)
    lines.append(f"{label:<{width}}  {auc_text(mean):>9}  {interval_text(low, high):^16}".rstrip())
    if undefined:
        lines.append(f"undefined, without positive or negative exams: {printable(', '.join(undefined))}")
    return lines


def operating_lines(summary: Mapping[str, object]) -> list[str]:
    """Calibration of each finding, and what its threshold from validation exams does."""
    table = cast(Mapping[str, Mapping[str, "float | None"]], summary["operating"])
    width = max([len("finding"), *(len(printable(finding)) for finding in table)])
    lines = [
        operating_note(summary),
        f"{'finding':<{width}}  {'Brier':>9}  {'calibration error':>17}  {'threshold':>9}  "
        f"{'sensitivity':>11}  {'specificity':>11}",
    ]
    lines.append("-" * len(lines[1]))
    for finding, row in table.items():
        lines.append(
            f"{printable(finding):<{width}}  {number_text(row['brier']):>9}  "
            f"{number_text(row['calibration_error']):>17}  {number_text(row['threshold']):>9}  "
            f"{number_text(row['sensitivity']):>11}  {number_text(row['specificity']):>11}"
        )
    return lines


def operating_note(summary: Mapping[str, object]) -> str:
    """Where the thresholds come from."""
    if not summary.get("validation_exams"):
        return "no validation exams beside the reported ones: no thresholds"
    return (
        f"thresholds: the smallest of specificity {summary['operating_specificity']:.2f} on "
        f"{summary['validation_exams']} validation exams; what they do to the reported exams:"
    )


def operating_sentence(summary: Mapping[str, object]) -> str:
    """The same, for a page or a card."""
    words = operating_note(summary)
    return f"{words[0].upper()}{words[1:].removesuffix(':')}."


def retrieval_lines(summary: Mapping[str, object]) -> list[str]:
    """Recall and median rank both ways beside chance; nothing for a result that was not asked for them.

    Args:
        summary: with `retrieval` and `retrieval_notices`.
    """
    if "retrieval" not in summary:
        return []
    notices = [printable(line) for line in cast(Sequence[str], summary["retrieval_notices"])]
    found = cast("Mapping[str, object] | None", summary["retrieval"])
    if found is None:
        return notices
    head = f"retrieval: {found['exams']} exams, {found['reports']} different reports"
    if found["without_report"]:
        head += f", {found['without_report']} exams without a report left out"
    columns = f"{'':<15}  {'':<11}  {'reached':>8}  {'95 % interval':^18}  {'chance':>8}"
    lines = [head, *notices, columns, "-" * len(columns)]
    for key in ("image_to_report", "report_to_image"):
        direction = cast(Mapping[str, object], found[key])
        chance = cast(Mapping[str, float], direction["chance"])
        intervals = cast(Mapping[str, Sequence["float | None"]], direction["interval"])
        for number, (name, at_chance) in enumerate(chance.items()):
            rank = name == "median_rank"
            low, high = intervals[name]
            lines.append(
                f"{'' if number else key.replace('_', ' '):<15}  "
                f"{'median rank' if rank else f'R@{name[1:]}':<11}  "
                f"{_figure_text(cast(float, direction[name]), rank):>8}  "
                f"{'' if low is None or high is None else _figure_interval(low, high, rank):^18}  "
                f"{_figure_text(at_chance, rank):>8}"
            )
    return lines


def _figure_text(value: float, rank: bool) -> str:
    return f"{value:.1f}" if rank else f"{value:.3f}"


def _figure_interval(low: float, high: float, rank: bool) -> str:
    return f"[{_figure_text(low, rank)}, {_figure_text(high, rank)}]"


def notice_lines(summary: Mapping[str, object]) -> list[str]:
    """What was left out or unknown, in counts: the reported exams first, then each site's."""
    told = {whose_exams(summary): summary.get("central_notices") or []}
    sites = cast(Mapping[str, list[str]], summary.get("notices") or {})
    told |= {f"site {printable(name)}": lines for name, lines in sites.items()}
    return [f"{who}: {printable(line)}" for who, lines in told.items() for line in cast(list[str], lines)]


def trained_alone(summary: Mapping[str, object]) -> bool:
    """Whether the run is one site's, without a federation."""
    return summary.get("engine") == ALONE


def whose_exams(summary: Mapping[str, object]) -> str:
    """Whose exams a run's result was measured on."""
    return "the site's own exams" if trained_alone(summary) else "the server's own exams"


def synthetic_line(summary: Mapping[str, object]) -> str | None:
    """What a page says first of a run on drawn exams; None for a run that does not know them to be drawn."""
    record = cast(Mapping[str, object], summary.get("data") or {})
    if not record:
        return None
    kind = (
        "real tissue with drawn findings"
        if record.get("tissue")
        else "no patient, every one drawn from a seed"
    )
    return f"All exams are synthetic: {kind}. No figure here is a claim about patients."


def mean_interval(summary: Mapping[str, object]) -> tuple[float | None, float | None]:
    """Interval of the mean AUC, if the run recorded one."""
    low, high = summary.get("mean_auc_ci_low"), summary.get("mean_auc_ci_high")
    return cast("float | None", low), cast("float | None", high)


def comparison_lines(summary: Mapping[str, object]) -> list[str]:
    """What the mean is to be held against; nothing if the run has no comparison."""
    comparison = cast(Mapping[str, object], summary.get("comparison") or {})
    lines: list[str] = []
    best = cast("Mapping[str, object] | None", comparison.get("best_site"))
    if best is not None:
        name, mean = printable(str(best["name"])), cast("float | None", best["mean_auc"])
        lines.append(f"best single site, trained alone for the same steps ({name}): {auc_text(mean)}")
    ceiling = cast("float | None", comparison.get("supervised_ceiling"))
    if ceiling is not None:
        lines.append(f"supervised ceiling, trained on labels of all sites: {auc_text(ceiling)}")
    return lines
