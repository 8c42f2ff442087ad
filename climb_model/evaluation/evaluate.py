"""Trained weights, measured again on a folder of labelled exams, or of exams with reports."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

from climb_model.atomic import write_text_atomic
from climb_model.data.exam import DataError
from climb_model.evaluation.labelled import NoLabels, open_labelled, unmeasured
from climb_model.evaluation.reported import open_reported, retrieval_of
from climb_model.evaluation.zero_shot import ZeroShot
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import ExamSet
from climb_model.runs import RunFolder
from climb_model.trained import check_fingerprint, read_trained
from climb_model.training.devices import AUTO, parse_devices
from configs.load import settings_hash, to_yaml
from configs.schema import Settings


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Zero-shot diagnosis with a run's weights on one folder."""

    settings: Settings
    summary: dict[str, object]
    """The keys of a run's `summary.json` that tell a result; `measured_on` names the folder and split."""

    found: ZeroShot = field(repr=False)


def evaluate(
    shared: Path,
    data: Path,
    weights: Path | None,
    *,
    split: str | None = None,
    name: str | None = None,
    scratch: Path | None = None,
    reports: bool = False,
) -> Evaluation:
    """Measure a run's shared weights on labelled exams, and by retrieval on those with a report.

    Args:
        shared: a run's `shared.safetensors`, with `config.yaml` beside it.
        data: a folder of exams with findings.
        weights: folder of the frozen encoders' model folders; None takes the hub or what is built in.
        split: None: the one that the settings name.
        name: the site's; None: the folder's.
        scratch: where this site keeps slice tokens; None: nothing is kept.
        reports: open the reports, if there are any, for retrieval; then exams without labels do too. Only a
            site may: otherwise reports are not opened.

    Raises:
        UserError: if the run is not finished, or its settings, its tensors or one of the frozen
            encoders here differ from those it was trained with.
        NoLabels: if no exam of the split has a known finding, nor, with `reports`, a report.
        DataError: if the exams cannot be used.
    """
    trained = read_trained(shared)
    settings = trained.settings
    torch.set_num_threads(settings.training.num_threads)
    frozen = FrozenEncoders.load(settings, weights, parse_devices(AUTO)[0])
    check_fingerprint(trained.fingerprint, frozen.fingerprint)
    model = trained.model(frozen.language_model)
    with tempfile.TemporaryDirectory(prefix="climb-evaluate-") as passing:
        folder = scratch or Path(passing)
        try:
            opened = open_labelled(data, settings, frozen, folder, name=name, split=split)
        except NoLabels as error:
            if not reports:
                raise
            exams = _unlabelled(error, data, settings, frozen, folder, name, split)
            found, result = unmeasured(settings)
            result |= {
                "measured_on": {"site": exams.site, "split": split or settings.evaluation.split},
                "central_exams": exams.num_exams,
                "central_notices": [f"{error.fact}: no AUC", *exams.notices],
            }
        else:
            exams = opened.exams
            found, result = opened.measure(model)
        if reports:
            result |= retrieval_of(model, exams, data, frozen.text, settings, name=name)
    summary: dict[str, object] = {
        "rounds": trained.round,
        **result,
        "config_hash": settings_hash(settings),
        "fingerprint": trained.fingerprint,
    }
    return Evaluation(settings=settings, summary=summary, found=found)


def _unlabelled(
    error: NoLabels,
    data: Path,
    settings: Settings,
    frozen: FrozenEncoders,
    scratch: Path,
    name: str | None,
    split: str | None,
) -> ExamSet:
    """Exams with reports in the place of labelled ones; without these either, labels are what is missing."""
    try:
        return open_reported(
            data, settings, frozen, scratch, name=name, split=split or settings.evaluation.split
        )
    except DataError:
        raise error from None


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write settings, predictions and summary as a run folder has them, the summary last."""
    folder, found = RunFolder(out, "", evaluation.settings), evaluation.found
    write_text_atomic(out / "config.yaml", to_yaml(evaluation.settings))
    folder.write_predictions(found.uids, found.patients, found.findings, found.labels, found.scores)
    folder.write_summary(evaluation.summary)
