"""The card on results: the table, what it is held against, and which limits follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from climb_model.report.card_data import counted
from climb_model.report.markdown import bullets, table, words, wrapped
from climb_model.results import (
    NOT_MEASURED,
    auc_text,
    comparison_lines,
    interval_text,
    labelled,
    mean_interval,
    number_text,
    operating_sentence,
    trained_alone,
)
from climb_model.runs import RoundRecord
from configs.schema import Settings

WIDE = 0.2
"""An interval wider than this leaves open whether a finding is found well or hardly."""

CHANCE = 0.5

Row = Mapping[str, float | None]


def quantitative_analyses(
    summary: Mapping[str, object], history: Sequence[RoundRecord], labels: Mapping[str, str]
) -> str:
    """AUC of each finding before and after training, and what the run holds it against."""
    if not labelled(summary):
        return wrapped(f"After {counted(cast(int, summary['rounds']), 'round')}: {NOT_MEASURED}.")
    rows_of, start = _table(summary), history[0] if history and history[0].round == 0 else None
    rows = [
        (
            words(finding),
            _before(start, finding),
            auc_text(row["auc"]),
            interval_text(row["ci_low"], row["ci_high"]),
            str(row["positives"]),
            str(row["negatives"]),
        )
        for finding, row in rows_of.items()
    ]
    undefined = [finding for finding, row in rows_of.items() if row["auc"] is None]
    mean, before = cast("float | None", summary.get("mean_auc")), start.mean_auc if start else None
    label = "mean of the defined" if undefined else "mean"
    interval = interval_text(*mean_interval(summary))
    rows.append((label, auc_text(before) if start else "", auc_text(mean), interval, "", ""))
    heads = ["finding", "before training", "AUC", "95 % interval", "positive", "negative"]
    told = [f"After {counted(cast(int, summary['rounds']), 'round')}:\n\n{table(heads, rows)}"]
    if undefined:
        told.append(f"Undefined, because no exam has it or none is without it: {_named(undefined)}.")
    compared = _comparison(summary, labels)
    if compared:
        told.append("Held against:\n\n" + bullets(compared))
    return "\n\n".join([*told, *_operating(summary)])


def caveats(summary: Mapping[str, object], settings: Settings, history: Sequence[RoundRecord]) -> str:
    """What the run itself shows to be weak."""
    measured = labelled(summary)
    weak = [*_weak_findings(_table(summary)), *_weak_mean(summary, history)] if measured else []
    lines = [*weak, *_rejected(history)]
    if summary.get("data"):
        lines.append("The exams are synthetic: no figure here is a claim about patients.")
    if not measured:
        lines.append("Never measured: whether the model learned anything is unknown.")
    elif trained_alone(summary):
        lines.append("Trained and measured at one site: the figures say nothing about exams of another.")
    on = ", measured on one collection of exams" if measured else ""
    lines += [
        f"One run with one seed ({settings.seed}){on}: how far another run "
        "or another hospital would differ is unknown.",
        "The run holds no clinical test. Measure the weights on exams of your own before any research relies "
        "on them.",
    ]
    return bullets(lines)


def _weak_findings(rows: Mapping[str, Row]) -> list[str]:
    told = {
        f"95 % interval wider than {WIDE}, so their AUC is hardly known": [
            (finding, row) for finding, row in rows.items() if _spread(row) > WIDE
        ],
        "95 % interval includes 0.5, so they may be guessed": [
            (finding, row) for finding, row in rows.items() if _includes_chance(row)
        ],
        "95 % interval below 0.5, so they are told the wrong way round": [
            (finding, row) for finding, row in rows.items() if _below_chance(row)
        ],
        "AUC without an interval": [
            (finding, row)
            for finding, row in rows.items()
            if row["auc"] is not None and row["ci_low"] is None
        ],
        "Never measured, without a positive or without a negative exam": [
            (finding, row) for finding, row in rows.items() if row["auc"] is None
        ],
    }
    return [
        f"{what}: " + ", ".join(f"{words(finding)} ({row['positives']} positive)" for finding, row in found)
        for what, found in told.items()
        if found
    ]


def _weak_mean(summary: Mapping[str, object], history: Sequence[RoundRecord]) -> list[str]:
    low, high = mean_interval(summary)
    before = history[0].mean_auc if history and history[0].round == 0 else None
    told: list[str] = []
    if low is not None and high is not None:
        if low <= CHANCE <= high:
            told.append("The interval of the mean AUC includes 0.5: as a whole the model may be guessing.")
        if before is not None and before >= low:
            told.append(
                f"The untrained weights reach a mean AUC of {before:.3f}, not below the interval after "
                "training: the run does not show that it learned."
            )
    return told


def _rejected(history: Sequence[RoundRecord]) -> list[str]:
    """How many were left out, without the reasons: those can name a site."""
    refused = sum(len(record.rejected) for record in history if record.round == 0)
    dropped = [(record.round, len(record.rejected)) for record in history if record.round and record.rejected]
    told: list[str] = []
    if refused:
        told.append(f"{counted(refused, 'site')} asked to take part and was not admitted, or did not answer.")
    if dropped:
        places = ", ".join(f"{number} in round {place}" for place, number in dropped)
        told.append(f"Replies or sites left out of the average after the start: {places}.")
    return told


def _comparison(summary: Mapping[str, object], labels: Mapping[str, str]) -> list[str]:
    comparison = cast(Mapping[str, object], summary.get("comparison") or {})
    best = cast("Mapping[str, object] | None", comparison.get("best_site"))
    if best is not None:
        called = {**best, "name": labels.get(str(best["name"]), "a site")}
        comparison = {**comparison, "best_site": called}
    return comparison_lines({"comparison": comparison})


def _operating(summary: Mapping[str, object]) -> list[str]:
    """Calibration and thresholds, if the run measured them."""
    rows_of = cast(Mapping[str, Row], summary.get("operating") or {})
    if not rows_of or not summary.get("central_exams"):
        return []
    columns = {
        "threshold": "threshold",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "brier": "Brier score",
        "calibration_error": "calibration error",
    }
    rows = [
        (words(finding), *(number_text(row.get(key)) for key in columns)) for finding, row in rows_of.items()
    ]
    head = wrapped(f"Calibration and thresholds. {operating_sentence(summary)}")
    return [f"{head}\n\n{table(['finding', *columns.values()], rows)}"]


def _table(summary: Mapping[str, object]) -> Mapping[str, Row]:
    return cast(Mapping[str, Row], summary["auc_table"])


def _before(start: RoundRecord | None, finding: str) -> str:
    return auc_text(start.auc[finding]) if start is not None and finding in start.auc else ""


def _spread(row: Row) -> float:
    low, high = row["ci_low"], row["ci_high"]
    return 0.0 if low is None or high is None else high - low


def _includes_chance(row: Row) -> bool:
    low, high = row["ci_low"], row["ci_high"]
    return low is not None and high is not None and low <= CHANCE <= high


def _below_chance(row: Row) -> bool:
    high = row["ci_high"]
    return high is not None and high < CHANCE


def _named(findings: Sequence[str]) -> str:
    return ", ".join(words(finding) for finding in findings)
