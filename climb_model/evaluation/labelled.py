"""Labelled exams as the measure of a model: its AUCs each round, calibration and thresholds at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from climb_model.data.exam import DataError
from climb_model.data.folders import has_findings
from climb_model.evaluation.operating import (
    brier_score,
    decide,
    expected_calibration_error,
    threshold_at,
)
from climb_model.evaluation.statistics import auc_table, mean_auc, mean_auc_interval
from climb_model.evaluation.zero_shot import ZeroShot, zero_shot
from climb_model.model.climb import ClimbModel
from climb_model.model.frozen import FrozenEncoders
from climb_model.notices import NO_VALIDATION, VALIDATION_LEFT_OUT, notice
from climb_model.prepare import ExamSet, prepare_watched, read_exams
from configs.schema import Settings

VALIDATION = "val"
"""The split that chooses thresholds; where it is itself reported there are none."""


class NoLabels(DataError):
    """Exams of which no finding is known: nothing can be measured on them. Names no exam."""

    def __init__(self, site: str, fact: str) -> None:
        super().__init__(f"site '{site}' has {fact}", f"site '{site}' has {fact}")
        self.fact = fact


@dataclass(frozen=True)
class LabelledExams:
    """One folder's exams of one split, ready, and the encoders that the model was made for."""

    settings: Settings
    frozen: FrozenEncoders
    split: str
    exams: ExamSet
    validation: ExamSet | None
    """Exams that choose the thresholds; None: there are none."""

    notices: tuple[str, ...] = field(default=())
    """What was left out, in counts only."""

    def predict(self, model: ClimbModel) -> ZeroShot:
        """Scores of the reported exams."""
        return zero_shot(model, self.exams, self.frozen.text, self.settings)

    def aucs(self, model: ClimbModel) -> tuple[float | None, dict[str, float | None]]:
        """Mean AUC over the defined findings, and each finding's AUC; without intervals."""
        found = self.predict(model)
        rows = auc_table(
            found.scores, found.labels, found.patients, found.findings, draws=0, seed=self.settings.seed
        )
        return mean_auc(rows)[0], {row.finding: row.auc for row in rows}

    def measure(self, model: ClimbModel) -> tuple[ZeroShot, dict[str, object]]:
        """Scores of the reported exams, and the part of `summary.json` on them."""
        found, chosen = self.predict(model), None
        if self.validation is not None:
            chosen = zero_shot(model, self.validation, self.frozen.text, self.settings)
        return found, {
            "measured_on": {"site": self.exams.site, "split": self.split},
            "central_exams": self.exams.num_exams,
            "central_notices": list(self.notices),
            **result_of(found, chosen, self.settings),
        }


def open_labelled(
    data: Path,
    settings: Settings,
    frozen: FrozenEncoders,
    scratch: Path,
    *,
    name: str | None = None,
    split: str | None = None,
) -> LabelledExams:
    """Read and encode the exams of a split and those that choose thresholds; reports are never opened.

    Args:
        data: a site's folder.
        scratch: private folder of this site for derived data.
        name: the site's; None: the folder's.
        split: None: `evaluation.split`.

    Raises:
        NoLabels: if the folder holds no findings, or none of these exams has a known one.
        DataError: if the exams cannot be used.
    """
    split = split or settings.evaluation.split
    told_name = name or data.resolve().name
    if not has_findings(data, settings.evaluation.findings, name):
        raise NoLabels(told_name, "no findings (findings.csv or its columns are missing)")
    site = read_exams(data, settings, name, need_reports=False, need_findings=True)
    if not any(label is not None for exam in site.of_split(split) for label in exam.findings.values()):
        raise NoLabels(site.name, f"no labelled exam in split '{split}'")
    exams = prepare_watched(site, split, frozen, settings, scratch)
    if np.isnan(exams.labels).all():
        raise NoLabels(site.name, f"no labelled exam in split '{split}' whose volumes can be used")
    notices, validation = list(exams.notices), None
    if split != VALIDATION and site.of_split(VALIDATION):
        try:
            validation = prepare_watched(site, VALIDATION, frozen, settings, scratch)
        except DataError:
            notices.append(notice(NO_VALIDATION, len(site.of_split(VALIDATION))))
        else:
            if validation.kept.index.left_out:
                notices.append(notice(VALIDATION_LEFT_OUT, len(validation.kept.index.left_out)))
    return LabelledExams(settings, frozen, split, exams, validation, tuple(notices))


def unmeasured(settings: Settings) -> tuple[ZeroShot, dict[str, object]]:
    """What `LabelledExams.measure` gives without labelled exams: every AUC undefined."""
    findings = settings.evaluation.findings
    nothing = np.zeros((0, len(findings)))
    found = ZeroShot(tuple(findings), (), (), nothing, nothing)
    return found, {
        "measured_on": None,
        "central_exams": 0,
        "central_notices": [],
        **result_of(found, None, settings),
    }


def result_of(found: ZeroShot, chosen: ZeroShot | None, settings: Settings) -> dict[str, object]:
    """AUC table with 95 % intervals over patients, calibration, and what thresholds do.

    Args:
        found: the reported exams.
        chosen: validation exams, which alone choose the thresholds; None: no thresholds.
    """
    draws, seed = settings.evaluation.bootstrap, settings.seed
    rows = auc_table(found.scores, found.labels, found.patients, found.findings, draws=draws, seed=seed)
    low, high = mean_auc_interval(found.scores, found.labels, found.patients, draws=draws, seed=seed)
    return {
        "mean_auc": mean_auc(rows)[0],
        "mean_auc_ci_low": low,
        "mean_auc_ci_high": high,
        "auc_table": {
            row.finding: {
                "auc": row.auc,
                "ci_low": row.ci_low,
                "ci_high": row.ci_high,
                "positives": row.positives,
                "negatives": row.negatives,
            }
            for row in rows
        },
        "validation_exams": 0 if chosen is None else len(chosen.uids),
        "operating_specificity": settings.evaluation.specificity,
        "operating": operating_table(found, chosen, settings.evaluation.specificity),
    }


def operating_table(
    found: ZeroShot, chosen: ZeroShot | None, specificity: float
) -> dict[str, dict[str, float | None]]:
    """Each finding's calibration, and its threshold from validation exams held against the reported ones.

    Args:
        specificity: wanted of the validation exams; `specificity` of the result is the one reached.
    """
    table: dict[str, dict[str, float | None]] = {}
    for column, finding in enumerate(found.findings):
        told, labels = found.scores[:, column], found.labels[:, column]
        row = {
            "brier": brier_score(told, labels),
            "calibration_error": expected_calibration_error(told, labels),
        }
        threshold = None
        if chosen is not None:
            threshold = threshold_at(
                chosen.scores[:, column], chosen.labels[:, column], specificity=specificity
            )
        decision = None if threshold is None else decide(told, labels, threshold=threshold)
        table[finding] = {
            **row,
            "threshold": threshold,
            "sensitivity": None if decision is None else decision.sensitivity,
            "specificity": None if decision is None else decision.specificity,
        }
    return table
