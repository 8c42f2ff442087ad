"""How long a round will take here: a few slices and two small steps measured, the rest multiplied."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from climb_model.checking.result import Finding, found
from climb_model.data.exam import DataError
from climb_model.data.sentences import split_sentences
from climb_model.data.store import MAGIC, KeptTokens, StoreIndex
from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.model.text import ReportEncoder
from climb_model.model.vision import CHUNK
from climb_model.prepare import ExamSet, Sentences
from climb_model.training.devices import AUTO, parse_devices, train_on
from climb_model.training.errors import TrainingError
from configs.schema import BUILTIN_FILTERS, BUILTIN_GERMAN, Settings

FEW, MORE = 2, 8
"""Exams in the measured steps; a step's time is taken for a straight line through both."""

REPEATS = 2
"""After one to warm up; the quickest counts, since other programs only slow it down."""


@dataclass(frozen=True)
class Seconds:
    """What was measured."""

    slice: float
    """To encode one slice."""

    step: float
    """A training step's own time, whatever its exams."""

    exam: float
    """What each exam adds to it."""


def check_time(
    settings: Settings, weights: Path | None, num_train: int, texts: Sequence[str]
) -> list[Finding]:
    """Expected time of the first preparation and of a round.

    Args:
        settings: of the study.
        weights: folder of model folders; without it only builtin encoders are timed: nothing is
            downloaded.
        num_train: training exams of the site.
        texts: the site's reports, of which a few of ordinary length are trained on.
    """
    names = {settings.model.vision.weights, settings.model.text.weights}
    reason = ""
    if settings.model.fusion.language_model:
        reason = "a language model in the fusion is not timed"
    elif weights is None and names - {BUILTIN_FILTERS, BUILTIN_GERMAN}:
        reason = "the weights are not here (--weights DIR)"
    elif not texts:
        reason = "there is no report to train on"
    if reason:
        return found("machine.time_unknown", count=1, detail=reason)
    try:
        measured = measure(settings, weights, texts)
    except DataError as error:
        return found("machine.weights", count=1, detail=error.public)
    except TrainingError:
        return found("machine.time_unknown", count=1, detail="a small training step failed")
    data, size = settings.data, max(min(settings.training.batch_size, num_train), 1)
    num_slices = num_train * data.num_views * len(data.sequences) * data.slices
    num_steps = settings.training.steps_per_round or max(num_train // size, 1)
    detail = (
        f"{_told(num_slices * measured.slice)} to encode {num_train} training exams once, then "
        f"{_told(num_steps * (measured.step + size * measured.exam))} a round of {num_steps} steps"
    )
    return found("machine.time", count=1, detail=detail)


def measure(settings: Settings, weights: Path | None, texts: Sequence[str]) -> Seconds:
    """Encode one chunk of slices, and train steps of a few exams.

    Raises:
        DataError: weights that cannot be used.
        TrainingError: memory ran out.
    """
    device = parse_devices(AUTO)[0]
    torch.set_num_threads(settings.training.num_threads)
    frozen = FrozenEncoders.load(settings, weights, device)
    slices = torch.randn(CHUNK, settings.data.rows, settings.data.columns)
    encode = min(_timed(lambda: frozen.vision(slices)) for _ in range(1 + REPEATS))
    few, more = (_step(settings, frozen, texts, size, device) for size in (FEW, MORE))
    each = max(more - few, 0.0) / (MORE - FEW) or more / MORE
    return Seconds(slice=encode / CHUNK, step=max(few - FEW * each, 0.0), exam=each)


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _step(
    settings: Settings, frozen: FrozenEncoders, texts: Sequence[str], size: int, device: torch.device
) -> float:
    """Seconds of a training step of `size` exams."""
    training = replace(settings.training, batch_size=size, steps_per_round=1, chunk_size=0)
    small = replace(settings, training=training)
    model, exams, state = build_model(small), _ordinary_exams(small, frozen, texts, size), None
    seconds: list[float] = []
    for round in range(1, 2 + REPEATS):
        report, state = train_on(
            (device,), model, state, exams, frozen.text, small, round=round, global_step=round
        )
        seconds.append(report.seconds)
    return min(seconds[1:])


def _ordinary_exams(settings: Settings, frozen: FrozenEncoders, texts: Sequence[str], size: int) -> ExamSet:
    """Exams of random slice tokens with reports of middling length."""
    width, num_slices = settings.model.vision.width, len(settings.data.sequences) * settings.data.slices
    uids = tuple(str(number) for number in range(size))
    index = StoreIndex(MAGIC, "", "", uids, 1, num_slices, width, {})
    tokens = np.random.default_rng(0).standard_normal((size, 1, num_slices, width)).astype(np.float16)
    ordered = sorted(texts, key=len)
    first = max((len(ordered) - size) // 2, 0)
    chosen = [ordered[(first + number) % len(ordered)] for number in range(size)]
    return ExamSet(
        site="",
        uids=uids,
        patients=uids,
        kept=KeptTokens(index, tokens, np.ones((size, num_slices), bool)),
        rows=np.arange(size),
        reports=tuple(_sentences(text, frozen.text) for text in chosen),
        labels=np.full((size, len(settings.evaluation.findings)), np.nan),
        notices=(),
        left_out={},
    )


def _sentences(text: str, encoder: ReportEncoder) -> Sentences:
    """Piece numbers of the sentences that fit; one unknown piece for a text without any."""
    sentences = [encoder.tokenize(sentence).pieces for sentence in split_sentences(text)]
    ends = accumulate(map(len, sentences))
    fitting = [pieces for pieces, end in zip(sentences, ends, strict=True) if end <= encoder.max_tokens]
    return tuple(pieces for pieces in fitting if pieces) or ((encoder.unknown or 0,),)


def _told(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
