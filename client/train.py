"""`climb-site train`: one site trains by itself, into the same run folder as a federation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from client.alone import Stand, rounds_alone
from client.folders import SCRATCH, TOKENS
from client.rounds import Training
from client.site import Site, exams_of
from client.trained_exams import forgotten_notice
from climb_model.atomic import write_text_atomic
from climb_model.checkpoints import newest_checkpoint
from climb_model.data.folders import require_split
from climb_model.ending import write_result
from climb_model.evaluation.labelled import NoLabels, open_labelled
from climb_model.lock import only_process
from climb_model.model.climb import build_model
from climb_model.origin import tell_origin
from climb_model.prepare import read_exams
from climb_model.progress import observer
from climb_model.results import ALONE
from climb_model.runs import RunError, RunFolder, check_name, study_name
from climb_model.scalars import ScalarBoard
from climb_model.training.batches import trainable
from climb_model.training.devices import AUTO, parse_devices
from configs.schema import Settings

PLACE = "site.json"
"""In the run folder: the site's own folders, for `--resume`."""

Say = Callable[[str], None]


def train_alone(
    data: Path,
    settings: Settings,
    out: Path,
    weights: Path | None = None,
    *,
    devices: str = AUTO,
    say: Say | None = None,
) -> dict[str, object]:
    """Train `federation.num_rounds` rounds on the site's split `train`, without a federation.

    The rounds are measured on the site's own labelled exams of split `evaluation.split`; without such
    exams it trains all the same, and every AUC is undefined. The result is the last round.

    Args:
        data: the site's folder, whose name is the site's.
        out: the run folder; it must not hold a run.
        weights: folder of the frozen encoders' model folders.
        devices: `auto`, `cpu` or such as `cuda:0,cuda:1`.
        say: told what the admin should know, such as why no AUC can be measured; never names an exam.

    Returns:
        The content of `summary.json`.

    Raises:
        RunError: if the run cannot start.
        DeviceError: if this machine does not have the devices.
        DataError: if the exams or the encoders' weights cannot be used.
        TrainingError: if the training cannot go on.
    """
    site = read_exams(data, settings, need_reports=True, need_findings=False)
    check_name("site", site.name)
    require_split(site, "train")
    parse_devices(devices)
    out = out.resolve()
    RunFolder.create(out, settings, study_name(out))
    place = {
        "name": site.name,
        "data": str(data.resolve()),
        "weights": str(weights.resolve()) if weights is not None else None,
        "devices": devices,
    }
    write_text_atomic(out / PLACE, json.dumps(place, indent=2, ensure_ascii=False) + "\n")
    return resume_alone(out, say=say)


def resume_alone(run: Path, *, say: Say | None = None) -> dict[str, object]:
    """Go on with a training whose process ended; a complete one only gives its summary.

    Raises:
        RunError: if the folder holds no training of one site, or its checkpoint is damaged.
        StateError: if the site's private state is damaged or missing.
        LockedError: if another process trains in this folder.
        DataError, TrainingError: as `train_alone`.
    """
    folder = RunFolder.open(run.resolve())
    site = site_of_run(folder)
    if notice := forgotten_notice(site.private / folder.study):
        site.say(notice)
        if say is not None:
            say(f"site '{site.name}': {notice}")
    with only_process(folder.path / "lock", what=f"trains in {folder.path}"):
        summary = folder.summary()
        if summary is None:
            torch.set_num_threads(folder.settings.training.num_threads)
            summary = _train(_open(folder, site, say))
        observer().finished(summary)
    return summary


def site_of_run(run: RunFolder) -> Site:
    """The site that trains in this run folder.

    Raises:
        RunError: if the run is not one of `train_alone`.
    """
    file = run.path / PLACE
    if not file.is_file():
        raise RunError(f"{run.path} holds no training of one site alone: it has no {PLACE}")
    place = json.loads(file.read_text("utf-8"))
    weights = Path(place["weights"]) if place["weights"] else None
    return Site(place["name"], Path(place["data"]), run.site(place["name"]), weights, place["devices"])


def _open(run: RunFolder, site: Site, say: Say | None) -> Training:
    exams, frozen = exams_of(site, run.settings)
    for uid, reason in exams.left_out.items():
        site.say(f"{uid} left out: {reason}")
    trainable(exams)  # too few are refused before a round is written
    try:
        labelled = open_labelled(site.data, run.settings, frozen, site.private / TOKENS, name=site.name)
    except NoLabels as error:
        line = f"{error.fact}: every AUC is undefined"
        site.say(line)
        if say is not None:
            say(f"site '{site.name}' has {line}")
        return Training(run, site, frozen, exams, None, (*exams.notices, line))
    return Training(run, site, frozen, exams, labelled, exams.notices)


def _train(training: Training) -> dict[str, object]:
    run, site = training.run, training.site
    model = build_model(run.settings, training.frozen.language_model)
    begin, watcher = time.monotonic(), observer()
    watcher.started(run.settings, {site.name: training.exams.num_exams})
    checkpoint = newest_checkpoint(run.checkpoints)
    if checkpoint is None:
        checkpoint = training.save(model, Stand(), (training.record(model, Stand(), begin, None),))
        watcher.round_done(checkpoint.history[-1])
    start, begin = training.restore(model, checkpoint), time.monotonic()
    run.write_history(checkpoint.history)
    with ScalarBoard(run.path / "tensorboard", checkpoint.history) as board:
        rounds = rounds_alone(
            model,
            training.exams,
            training.frozen.text,
            run.settings,
            start=start,
            devices=site.devices,
            scratch=site.private / SCRATCH,
            on_step=lambda *told: watcher.site_progress(site.name, *told),
        )
        for report, stand in rounds:
            told = f"{report.num_steps} steps, loss {report.loss:.4f} ({report.parts})"
            site.say(f"round {stand.round}: {told}")
            record = training.record(model, stand, begin, report)
            checkpoint = training.save(model, stand, (*checkpoint.history, record))
            board.add(record)
            watcher.round_done(record)
            begin = time.monotonic()
    summary = write_result(run, checkpoint, training.frozen, training.labelled, ALONE)
    tell_origin(run, summary, site.data)
    return summary
