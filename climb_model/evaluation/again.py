"""Trained weights, measured again on a folder of labelled exams."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

from climb_model.atomic import write_text_atomic
from climb_model.evaluation.labelled import open_labelled
from climb_model.evaluation.zero_shot import ZeroShot
from climb_model.model.frozen import FrozenEncoders
from climb_model.runs import RunFolder
from climb_model.trained import check_fingerprint, read_trained
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
) -> Evaluation:
    """Measure a run's shared weights on labelled exams.

    Args:
        shared: a run's `shared.safetensors`, with `config.yaml` beside it.
        data: a folder of exams with findings; reports are not opened.
        weights: folder of the frozen encoders' model folders; None takes the hub or what is built in.
        split: None: the one that the settings name.
        name: the site's; None: the folder's.
        scratch: where this site keeps slice tokens; None: nothing is kept.

    Raises:
        UserError: if the run is not finished, or its settings, its tensors or one of the frozen
            encoders here differ from those it was trained with.
        NoLabels: if no exam of the split has a known finding.
        DataError: if the exams cannot be used.
    """
    trained = read_trained(shared)
    settings = trained.settings
    torch.set_num_threads(settings.training.num_threads)
    frozen = FrozenEncoders.load(settings, weights)
    check_fingerprint(trained.fingerprint, frozen.fingerprint)
    model = trained.model(frozen.language_model)
    with tempfile.TemporaryDirectory(prefix="climb-evaluate-") as passing:
        exams = open_labelled(data, settings, frozen, scratch or Path(passing), name=name, split=split)
        found, result = exams.measure(model)
    summary: dict[str, object] = {
        "rounds": trained.round,
        **result,
        "config_hash": settings_hash(settings),
        "fingerprint": trained.fingerprint,
    }
    return Evaluation(settings=settings, summary=summary, found=found)


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write settings, predictions and summary as a run folder has them, the summary last."""
    folder, found = RunFolder(out, "", evaluation.settings), evaluation.found
    write_text_atomic(out / "config.yaml", to_yaml(evaluation.settings))
    folder.write_predictions(found.uids, found.patients, found.findings, found.labels, found.scores)
    folder.write_summary(evaluation.summary)
