"""A finished run's shared weights, measured again on a folder of labelled exams."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from climb_model.evaluation.operating import (
    Decision,
    brier_score,
    decide,
    expected_calibration_error,
    threshold_at,
)
from climb_model.evaluation.statistics import AucRow, auc_table, mean_auc, mean_auc_interval
from climb_model.evaluation.zero_shot import ZeroShot, zero_shot
from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import prepare, read_exams
from climb_model.results import NOT_A_DEVICE
from climb_model.sharing import load_shared
from configs.errors import UserError
from configs.load import settings_from_file, settings_hash
from configs.schema import Settings

SHARED = "shared.safetensors"
VALIDATION = "val"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Zero-shot diagnosis of a run on one folder."""

    site: str
    exams: int
    notices: tuple[str, ...]
    rows: tuple[AucRow, ...]
    mean: float | None
    """Over the findings whose AUC is defined."""

    interval: tuple[float | None, float | None]
    """95 % interval of the mean."""

    undefined: tuple[str, ...]
    """Findings without a positive or without a negative exam."""

    validation_exams: int
    """Exams that chose the thresholds; 0: there are none, hence no decisions."""

    specificity: float
    """Wanted of them."""

    operating: tuple[OperatingRow, ...]


@dataclass(frozen=True, kw_only=True)
class OperatingRow:
    """How far a finding's probabilities can be believed, and what its threshold does."""

    finding: str
    brier: float | None
    calibration_error: float | None
    decision: Decision | None
    """On the reported exams; None without a threshold."""


def evaluate(run: Path, data: Path, weights: Path | None) -> Evaluation:
    """Measure a run's shared weights on the exams of the split that its settings name.

    Args:
        run: a run folder with `config.yaml` and `shared.safetensors`.
        data: a folder of exams with findings; reports are not opened.
        weights: folder of the frozen encoders' model folders; None takes the hub or what is built in.

    Raises:
        UserError: if the run is not finished, or its settings, its tensors or one of the frozen
            encoders here differ from those it was trained with.
        DataError: if the exams cannot be used.
    """
    settings = settings_from_file(run / "config.yaml")
    torch.set_num_threads(settings.training.num_threads)
    tensors, metadata = _read_shared(run / SHARED)
    _check_settings(metadata, settings, run)
    frozen = FrozenEncoders.load(settings, weights)
    check_fingerprint(_recorded_fingerprint(metadata, run), frozen.fingerprint)
    model = build_model(settings)
    load_shared(model, tensors, sender=str(run / SHARED))
    site = read_exams(data, settings, need_reports=False, need_findings=True)
    with tempfile.TemporaryDirectory(prefix="climb-evaluate-") as scratch:
        exams = prepare(site, settings.evaluation.split, frozen, settings, Path(scratch))
        found = zero_shot(model, exams, frozen.text, settings)
        chosen = None
        if settings.evaluation.split != VALIDATION and site.of_split(VALIDATION):
            validation = prepare(site, VALIDATION, frozen, settings, Path(scratch))
            chosen = zero_shot(model, validation, frozen.text, settings)
    draws, seed = settings.evaluation.bootstrap, settings.seed
    rows = auc_table(found.scores, found.labels, found.patients, found.findings, draws=draws, seed=seed)
    mean, undefined = mean_auc(rows)
    return Evaluation(
        site=site.name,
        exams=exams.num_exams,
        notices=exams.notices,
        rows=rows,
        mean=mean,
        interval=mean_auc_interval(found.scores, found.labels, found.patients, draws=draws, seed=seed),
        undefined=undefined,
        validation_exams=len(chosen.uids) if chosen is not None else 0,
        specificity=settings.evaluation.specificity,
        operating=operating_rows(found, chosen, settings.evaluation.specificity),
    )


def operating_rows(found: ZeroShot, chosen: ZeroShot | None, specificity: float) -> tuple[OperatingRow, ...]:
    """Calibration of each finding, and its threshold from validation exams held against the others.

    Args:
        found: the reported exams.
        chosen: validation exams; None: no thresholds.
        specificity: wanted of the validation exams.
    """
    rows: list[OperatingRow] = []
    for column, finding in enumerate(found.findings):
        told, labels = found.scores[:, column], found.labels[:, column]
        threshold = None
        if chosen is not None:
            threshold = threshold_at(
                chosen.scores[:, column], chosen.labels[:, column], specificity=specificity
            )
        rows.append(
            OperatingRow(
                finding=finding,
                brier=brier_score(told, labels),
                calibration_error=expected_calibration_error(told, labels),
                decision=None if threshold is None else decide(told, labels, threshold=threshold),
            )
        )
    return tuple(rows)


def check_fingerprint(trained: dict[str, str], here: dict[str, str]) -> None:
    """Compare the frozen encoders of a run with those of this machine.

    Raises:
        UserError: naming every part that differs.
    """
    parts = sorted(set(trained) | set(here))
    different = [part for part in parts if trained.get(part) != here.get(part)]
    if different:
        told = "; ".join(
            f"{part}: {_short(trained.get(part))} then, {_short(here.get(part))} here" for part in different
        )
        raise UserError(f"the run was trained with other frozen parts ({told})")


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"


def _read_shared(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path} is missing: a run writes it when it has finished")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: cast(Tensor, file.get_tensor(name)) for name in sorted(file.keys())}
            return tensors, dict(file.metadata() or {})
    except SafetensorError:
        raise UserError(f"{path} is damaged or no safetensors file") from None


def _check_settings(metadata: dict[str, str], settings: Settings, run: Path) -> None:
    written, here = metadata.get("config_hash", "none"), settings_hash(settings)
    if written != here:
        raise UserError(
            f"{run / SHARED} was trained with settings {written}, {run / 'config.yaml'} holds settings {here}"
        )


def _recorded_fingerprint(metadata: dict[str, str], run: Path) -> dict[str, str]:
    try:
        recorded = json.loads(metadata.get("fingerprint", ""))
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict):
        raise UserError(f"{run / SHARED} does not say which frozen encoders it was trained with")
    return {str(part): str(digest) for part, digest in cast(dict[object, object], recorded).items()}


def to_text(evaluation: Evaluation) -> str:
    """Findings with their AUC and 95 % interval, then the mean."""
    width = max(len(row.finding) for row in evaluation.rows)
    lines = [f"{evaluation.exams} exams of {evaluation.site}", *evaluation.notices, ""]
    lines.append(f"{'finding'.ljust(width)}    AUC   95 % interval  positives  negatives")
    for row in evaluation.rows:
        lines.append(
            f"{row.finding.ljust(width)}  {_number(row.auc)}  {_interval(row.ci_low, row.ci_high)}"
            f"  {row.positives:9d}  {row.negatives:9d}"
        )
    lines.append(f"{'mean'.ljust(width)}  {_number(evaluation.mean)}  {_interval(*evaluation.interval)}")
    if evaluation.undefined:
        lines.append(f"without a positive or a negative exam: {', '.join(evaluation.undefined)}")
    return "\n".join([*lines, "", *operating_lines(evaluation, width)])


def operating_lines(evaluation: Evaluation, width: int) -> list[str]:
    """Calibration and decisions, finding by finding."""
    lines = ["no validation exams beside them: no thresholds"]
    if evaluation.validation_exams:
        lines = [
            f"thresholds: specificity {evaluation.specificity:.2f} on {evaluation.validation_exams} "
            "validation exams; what they do to the exams above:"
        ]
    lines.append(f"{'finding'.ljust(width)}  sensitivity  specificity  Brier score  calibration error")
    for row in evaluation.operating:
        decision = row.decision
        lines.append(
            f"{row.finding.ljust(width)}  {_number(decision and decision.sensitivity):>11}  "
            f"{_number(decision and decision.specificity):>11}  {_number(row.brier):>11}  "
            f"{_number(row.calibration_error):>17}"
        )
    return [*lines, NOT_A_DEVICE]


def _number(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return " " * 13 if low is None or high is None else f"{low:.3f} - {high:.3f}"
