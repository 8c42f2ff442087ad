"""How long a round will take here: a few slices and two small steps measured, the rest multiplied."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from climb_model.checking.machine import TYPICAL_TOKENS
from climb_model.checking.result import Finding, found
from climb_model.data.exam import DataError
from climb_model.data.store import MAGIC, KeptTokens, StoreIndex
from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.model.vision import CHUNK
from climb_model.prepare import ExamSet
from climb_model.training.devices import AUTO, parse_devices, train_on
from climb_model.training.errors import TrainingError
from configs.schema import BUILTIN_FILTERS, BUILTIN_GERMAN, Settings

EXAMS = 4
"""In the measured step; a step of a whole batch takes about in proportion."""


@dataclass(frozen=True)
class Seconds:
    """What was measured."""

    slice: float
    """To encode one slice."""

    exam: float
    """One exam's share of a training step."""


def check_time(settings: Settings, weights: Path | None, num_train: int, num_tokens: int) -> list[Finding]:
    """Expected time of the first preparation and of a round.

    Args:
        weights: folder of model folders; without it only builtin encoders are timed: nothing is
            downloaded.
        num_train: training exams of the site.
        num_tokens: of a typical report; 0 where none could be counted.
    """
    names = {settings.model.vision.weights, settings.model.text.weights}
    if settings.model.fusion.language_model:
        return found("machine.time_unknown", count=1, detail="a language model in the fusion is not timed")
    if weights is None and names - {BUILTIN_FILTERS, BUILTIN_GERMAN}:
        return found("machine.time_unknown", count=1, detail="the weights are not here (--weights DIR)")
    try:
        measured = measure(settings, weights, num_tokens or TYPICAL_TOKENS)
    except DataError as error:
        return found("machine.weights", count=1, detail=error.public)
    except TrainingError:
        return found("machine.time_unknown", count=1, detail="a small training step failed")
    data, size = settings.data, max(min(settings.training.batch_size, num_train), 1)
    num_slices = num_train * data.num_views * len(data.sequences) * data.slices
    num_steps = settings.training.steps_per_round or max(num_train // size, 1)
    detail = (
        f"{_told(num_slices * measured.slice)} to encode {num_train} training exams once, then "
        f"{_told(num_steps * size * measured.exam)} a round of {num_steps} steps"
    )
    return found("machine.time", count=1, detail=detail)


def measure(settings: Settings, weights: Path | None, num_tokens: int) -> Seconds:
    """Encode one chunk of slices and train two steps of a few exams; of each the second time counts.

    Raises:
        DataError: weights that cannot be used.
        TrainingError: memory ran out.
    """
    device = parse_devices(AUTO)[0]
    torch.set_num_threads(settings.training.num_threads)
    frozen = FrozenEncoders.load(settings, weights, device)
    slices = torch.randn(CHUNK, settings.data.rows, settings.data.columns)
    seconds = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        frozen.vision(slices)
        seconds = time.perf_counter() - begun
    small = replace(
        settings, training=replace(settings.training, batch_size=EXAMS, steps_per_round=1, chunk_size=0)
    )
    model, state = build_model(small), None
    exams = _drawn_exams(small, frozen, num_tokens)
    step = 0.0
    for round in (1, 2):
        report, state = train_on(
            (device,), model, state, exams, frozen.text, small, round=round, global_step=round
        )
        step = report.seconds
    return Seconds(slice=seconds / CHUNK, exam=step / EXAMS)


def _drawn_exams(settings: Settings, frozen: FrozenEncoders, num_tokens: int) -> ExamSet:
    """Exams of random tokens and reports of a typical length, in sentences of about ten tokens."""
    rng = np.random.default_rng(0)
    width, num_slices = settings.model.vision.width, len(settings.data.sequences) * settings.data.slices
    uids = tuple(str(number) for number in range(EXAMS))
    index = StoreIndex(MAGIC, "", "", uids, 1, num_slices, width, {})
    tokens = rng.standard_normal((EXAMS, 1, num_slices, width)).astype(np.float16)
    length = min(max(num_tokens, 2), frozen.text.max_tokens)
    pieces = rng.integers(5, len(frozen.text.words), (EXAMS, length))
    reports = tuple(
        tuple(tuple(int(piece) for piece in row[first : first + 10]) for first in range(0, length, 10))
        for row in pieces
    )
    return ExamSet(
        site="",
        uids=uids,
        patients=uids,
        kept=KeptTokens(index, tokens, np.ones((EXAMS, num_slices), bool)),
        rows=np.arange(EXAMS),
        reports=reports,
        labels=np.full((EXAMS, len(settings.evaluation.findings)), np.nan),
        notices=(),
        left_out={},
    )


def _told(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
