"""What the report reads of a run folder, checked; every fault is one line naming the file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from safetensors import SafetensorError, safe_open

from climb_model.report.card import FILE as CARD
from climb_model.runs import RoundRecord
from configs.errors import UserError
from configs.load import settings_from_file, settings_hash
from configs.schema import Settings

SIMULATION = "simulation.json"
"""In the run folder of a simulation, whatever its engine: a real federation has none."""

PREDICTION_COLUMNS = ["uid", "patient", "finding", "label", "score"]


class ReportError(UserError):
    """A run folder of which no report can be made; one line naming the file."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The server's own exams at the end of the run. Who they belong to is only counted."""

    num_exams: int
    num_patients: int
    labels: dict[str, np.ndarray] = field(repr=False)
    """Finding to (exam,) 1, 0, or nan for unknown."""

    scores: dict[str, np.ndarray] = field(repr=False)
    """Finding to (exam,) scores."""


@dataclass(frozen=True, kw_only=True)
class AucEntry:
    """A line of the summary's AUC table."""

    auc: float | None
    ci_low: float | None
    ci_high: float | None
    positives: int
    negatives: int


@dataclass(frozen=True, kw_only=True)
class OperatingEntry:
    """A line of the summary's calibration and thresholds."""

    brier: float | None
    calibration_error: float | None
    threshold: float | None
    sensitivity: float | None
    specificity: float | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run or an evaluation ended with."""

    settings: Settings
    settings_text: str
    summary: dict[str, object]
    table: dict[str, AucEntry]
    operating: dict[str, OperatingEntry]
    """Empty for a run of before there was one."""

    predictions: Predictions


@dataclass(frozen=True, kw_only=True)
class RunInputs(Result):
    """A finished run."""

    history: tuple[RoundRecord, ...]
    shared: dict[str, tuple[int, ...]]
    """Name to shape of each tensor that travelled; empty if the run kept no `shared.safetensors`."""

    has_card: bool
    """Whether the run has a model card."""

    simulated: bool
    """Whether all sites were on one machine."""

    @property
    def study(self) -> str:
        """Name of the study, or nothing."""
        return str(self.summary.get("study") or "")


def read_run(run: Path) -> RunInputs:
    """Read and check `config.yaml`, `history.jsonl`, `summary.json` and `predictions.csv`.

    Raises:
        ReportError: if one is missing, broken, or of another run than the rest.
        SettingsError: if `config.yaml` holds no possible settings.
    """
    result = read_result(run)
    _check_run(run / "summary.json", result.summary)
    return RunInputs(
        settings=result.settings,
        settings_text=result.settings_text,
        summary=result.summary,
        table=result.table,
        operating=result.operating,
        predictions=result.predictions,
        history=_history(run / "history.jsonl"),
        shared=_shared(run / "shared.safetensors"),
        has_card=(run / CARD).is_file(),
        simulated=result.summary.get("engine") == "local" or (run / SIMULATION).is_file(),
    )


def read_result(folder: Path) -> Result:
    """Read and check what a run and an evaluation both leave: all of `read_run`'s but the history.

    Raises:
        ReportError, SettingsError: as `read_run`.
    """
    settings_text = _text(folder / "config.yaml")
    settings = settings_from_file(folder / "config.yaml")
    file = folder / "summary.json"
    summary = _object(file, _text(file))
    wanted, got = settings_hash(settings), summary.get("config_hash", settings_hash(settings))
    if got != wanted:
        raise ReportError(f"{file} belongs to settings {got}, config.yaml holds {wanted}")
    table = _table(file, summary)
    return Result(
        settings=settings,
        settings_text=settings_text,
        summary=summary,
        table=table,
        operating=_operating(file, summary),
        predictions=_predictions(folder / "predictions.csv", list(table)),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ReportError(f"{path} is not UTF-8 text") from None


def _object(what: Path | str, text: str) -> dict[str, object]:
    try:
        values = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise ReportError(f"{what} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ReportError(f"{what} must be a JSON object, got a {type(values).__name__}")
    return cast(dict[str, object], values)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _history(path: Path) -> tuple[RoundRecord, ...]:
    records: list[RoundRecord] = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        where = f"{path} line {number}"
        values = _object(where, line)
        try:
            record = RoundRecord.from_json(values)
            _number(where, record.round, record.seconds, record.global_step)
            _number(where, *(value for value in (record.mean_auc, *record.auc.values()) if value is not None))
            for site in record.sites.values():
                _number(where, site.exams, site.steps, site.loss, site.seconds)
                _number(where, site.bytes_up, site.bytes_down)
            reasons = [entry["site"] + entry["reason"] for entry in record.rejected]
        except (KeyError, TypeError, AttributeError) as error:
            raise ReportError(f"{where} is no round of a history: {_told(error)}") from None
        assert len(reasons) == len(record.rejected)
        records.append(record)
    if not records:
        raise ReportError(f"{path} holds no round")
    return tuple(records)


def _table(path: Path, summary: Mapping[str, object]) -> dict[str, AucEntry]:
    try:
        for key in ("mean_auc", "mean_auc_ci_low", "mean_auc_ci_high"):
            if summary.get(key) is not None:
                _number(path, summary[key])
        rows = cast(Mapping[str, Mapping[str, object]], summary["auc_table"])
        table = {finding: AucEntry(**row) for finding, row in rows.items()}  # type: ignore[arg-type]
        for entry in table.values():
            values = (entry.auc, entry.ci_low, entry.ci_high)
            _number(path, entry.positives, entry.negatives, *(v for v in values if v is not None))
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path} is no summary of a run: {_told(error)}") from None
    return table


def _operating(path: Path, summary: Mapping[str, object]) -> dict[str, OperatingEntry]:
    if "operating" not in summary:
        return {}
    try:
        _number(path, summary["validation_exams"], summary["operating_specificity"])
        rows = cast(Mapping[str, Mapping[str, object]], summary["operating"])
        for row in rows.values():
            _number(path, *(value for value in row.values() if value is not None))
        table = {finding: OperatingEntry(**row) for finding, row in rows.items()}  # type: ignore[arg-type]
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path} is no summary of a run: {_told(error)}") from None
    return table


def _check_run(path: Path, summary: Mapping[str, object]) -> None:
    try:
        _number(path, summary["seconds"], summary["rounds"])
        _number(path, *cast(Mapping[str, object], summary["exams"]).values())
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path} is no summary of a run: {_told(error)}") from None


def _predictions(path: Path, findings: list[str]) -> Predictions:
    rows = list(csv.reader(_text(path).splitlines()))
    if not rows or rows[0] != PREDICTION_COLUMNS:
        raise ReportError(f"{path} must begin with the line {','.join(PREDICTION_COLUMNS)}")
    cells: dict[tuple[str, str], tuple[float, float]] = {}
    patients: set[str] = set()
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(PREDICTION_COLUMNS) or row[3] not in ("", "0", "1"):
            raise ReportError(
                f"{path} line {number} must hold {', '.join(PREDICTION_COLUMNS)}; label 0, 1 or empty"
            )
        uid, patient, finding, label, score = row
        if finding not in findings or (uid, finding) in cells:
            raise ReportError(
                f"{path} line {number} has a finding twice, or one that summary.json does not know"
            )
        patients.add(patient)
        cells[uid, finding] = (math.nan if label == "" else float(label), _score(path, number, score))
    uids = list(dict.fromkeys(uid for uid, _ in cells))
    if len(cells) != len(uids) * len(findings):
        raise ReportError(
            f"{path} must hold every finding of every exam: {len(uids)} x {len(findings)} lines"
        )
    columns = {
        finding: np.array([cells[uid, finding] for uid in uids]).reshape(-1, 2) for finding in findings
    }
    return Predictions(
        num_exams=len(uids),
        num_patients=len(patients),
        labels={finding: column[:, 0] for finding, column in columns.items()},
        scores={finding: column[:, 1] for finding, column in columns.items()},
    )


def _score(path: Path, number: int, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ReportError(f"{path} line {number} must hold a finite score, got {text!r}")
    return score


def _shared(path: Path) -> dict[str, tuple[int, ...]]:
    if not path.exists():
        return {}
    try:
        with safe_open(path, framework="np") as file:
            names = sorted(cast(list[str], list(file.keys())))
            return {name: tuple(cast(list[int], file.get_slice(name).get_shape())) for name in names}
    except (SafetensorError, OSError):
        raise ReportError(f"{path} is damaged or no safetensors file") from None


def _number(where: Path | str, *values: object) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ReportError(f"{where} must hold a number, got {ascii(value)[:40]}")


def _told(error: KeyError | TypeError | AttributeError) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
