"""`make bench`: our paths against the plain way of `reference.py`, as ratios of one thread's CPU time.

    python benchmarks/bench.py [--preset climb] [--runs 5] [--exams 8] [--out runs/bench]

All variants of a run are timed one after the other, run by run, and the median of the runs is told: a ratio
holds inside one table, not between machines. Weights are random and of the published sizes, reports 30 to
120 tokens long. Losses are compared before anything is timed. No test: a machine's speed is no fault.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import reference
import torch
from tokenizers import Tokenizer

import climb_model.model.fusion
import climb_model.model.generation
from climb_model.data.store import MAGIC, KeptTokens, StoreIndex
from climb_model.evaluation.zero_shot import zero_shot
from climb_model.model.climb import ClimbModel, ImageTokens, build_model
from climb_model.model.layers import run_layers, run_library
from climb_model.model.text import GERMAN_TOKENIZER, ReportEncoder
from climb_model.model.vision import CHUNK
from climb_model.prepare import ExamSet
from climb_model.training.step import Batch, Objectives
from configs.load import load_settings
from configs.schema import Settings

PRECISIONS = ("float32", "bfloat16")
PIECES, TEXT_WIDTH = 30_000, 768
LOSS_CLOSE = 1e-4
TEST_EXAMS = 32
"""Exams that are diagnosed together: the prompts are embedded once for all of them."""
CLIP_ALONE = ("objectives.coca=0", "objectives.inverse_coca=0")
BOUND = {
    "train_all": "the slice encoder: matrix products in bfloat16",
    "train_clip": "the slice encoder: matrix products in bfloat16",
    "zero_shot": "the slice encoder: matrix products in bfloat16",
    "train_all_kept": "matrix products of four passes, then logits over 30,000 pieces",
    "train_clip_kept": "matrix products of two passes",
    "zero_shot_kept": "matrix products of one pass in float32",
}


@dataclass(frozen=True)
class Study:
    """Weights and data that both ways share."""

    settings: Callable[..., Settings]
    encoder: Any
    reports: ReportEncoder
    slices: torch.Tensor
    """(slice token, row, column) of one exam."""

    image: ImageTokens
    texts: list[tuple[int, ...]]

    def encoder_in_bfloat16(self) -> Any:
        """The same weights, with fused attention."""
        config = copy.deepcopy(self.encoder.config)
        config._attn_implementation = "sdpa"
        copied = type(self.encoder)(config).eval().requires_grad_(False)
        copied.load_state_dict(self.encoder.state_dict())
        return copied.to(torch.bfloat16)

    @property
    def batch(self) -> Batch:
        """As the trainer gives it."""
        whole = tuple((text,) for text in self.texts)
        return Batch(self.image, self.image, whole, whole, tuple(map(str, range(len(whole)))))

    @property
    def test_set(self) -> ExamSet:
        """`TEST_EXAMS` exams to diagnose, as kept tokens; the first is the batch's first."""
        copies = -(-TEST_EXAMS // len(self.texts))
        tokens = self.image.tokens.repeat(copies, 1, 1)[:TEST_EXAMS, None].numpy().astype(np.float16)
        num_tokens, width = tokens.shape[2:]
        uids = tuple(f"exam{number}" for number in range(TEST_EXAMS))
        return ExamSet(
            site="A",
            uids=uids,
            patients=uids,
            kept=KeptTokens(
                StoreIndex(MAGIC, "A", "key", uids, 1, num_tokens, width, {}),
                tokens,
                np.ones((TEST_EXAMS, num_tokens), bool),
            ),
            rows=np.arange(TEST_EXAMS),
            reports=((),) * TEST_EXAMS,
            labels=np.full((TEST_EXAMS, 9), np.nan),
            notices=(),
            left_out={},
        )


def make_study(preset: str, num_exams: int) -> Study:
    """Random weights of the published sizes, random slices and reports."""
    from transformers import Dinov2Config, Dinov2Model

    def settings(*overrides: str) -> Settings:
        return load_settings(preset, ["training.num_threads=1", "model.fusion.dropout=0", *overrides])

    plain = settings()
    torch.manual_seed(0)
    dino = Dinov2Config(
        hidden_size=plain.model.vision.width, num_attention_heads=6, image_size=518, patch_size=14
    )
    dino._attn_implementation = "eager"  # as the reference implementation computes it
    encoder = Dinov2Model(dino).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    rng = np.random.default_rng(2)
    words = 0.045 * torch.randn(PIECES, TEXT_WIDTH, generator=generator)  # as large as BERT's
    positions = 0.01 * torch.randn(plain.model.text.max_tokens, TEXT_WIDTH, generator=generator)
    tokenizer = Tokenizer.from_file(str(GERMAN_TOKENIZER))
    num_tokens = len(plain.data.sequences) * plain.data.slices
    shape = (num_exams, num_tokens, plain.model.vision.width)
    return Study(
        settings=settings,
        encoder=encoder,
        reports=ReportEncoder(plain.model.text, tokenizer, words, positions, None, "random"),
        slices=torch.randn(num_tokens, plain.data.rows, plain.data.columns, generator=generator),
        image=ImageTokens(torch.randn(shape, generator=generator), torch.ones(shape[:2], dtype=torch.bool)),
        texts=[
            tuple(int(piece) for piece in rng.integers(10, PIECES, rng.integers(30, 121)))
            for _ in range(num_exams)
        ],
    )


def plain_layers(used: Callable[..., Any]) -> None:
    """Whether the model runs the library's own pass, as the yardstick does, or ours."""
    climb_model.model.fusion.run_layers = used  # type: ignore[attr-defined]
    climb_model.model.generation.run_layers = used  # type: ignore[attr-defined]


def units(study: Study) -> dict[str, Callable[[], float]]:
    """What is timed: each gives a number that both ways must agree on."""
    found: dict[str, Callable[[], float]] = {}
    pair = ("Karzinom.", "Kein Karzinom.")
    for precision in PRECISIONS:
        for name, objectives in (("all", ()), ("clip", CLIP_ALONE)):
            settings = study.settings(f"training.precision={precision}", *objectives)
            found[f"plain {name} {precision}"] = plain_step(study, settings)
        settings = study.settings(f"training.precision={precision}")
        model = build_model(settings).eval()

        def encode(precision: str = precision) -> float:
            return float(reference.encode_slices(study.encoder, study.slices, precision).square().mean())

        def diagnose(settings: Settings = settings, model: ClimbModel = model) -> float:
            with library():
                return float(reference.diagnose(model, settings, study.reports, study.image, pair))

        found[f"plain encode {precision}"] = encode
        found[f"plain diagnose {precision}"] = diagnose
    for name, objectives in (("all", ()), ("clip", CLIP_ALONE)):
        for precision in PRECISIONS:
            settings = study.settings(f"training.precision={precision}", *objectives)
            found[f"ours {name} {precision}"] = our_step(study, settings)
    settings = study.settings("training.precision=bfloat16", "model.fusion.flash=false")
    ours_by_library = our_step(study, settings)

    def step_by_library() -> float:
        with library():
            return ours_by_library()

    found["library all bfloat16"] = step_by_library
    encoder = study.encoder_in_bfloat16()
    found["ours encode"] = lambda: float(by_chunks(encoder, study.slices).square().mean())
    settings = study.settings()
    model, exams = build_model(settings).eval(), study.test_set
    last = len(settings.evaluation.findings) - 1
    found["ours diagnose set"] = lambda: float(
        zero_shot(model, exams, study.reports, settings).scores[0, last]
    )
    return found


@torch.inference_mode()
def by_chunks(encoder: Any, slices: torch.Tensor) -> torch.Tensor:
    """As `DinoEncoder` computes them: bfloat16 weights, fused attention, small chunks."""
    tokens = [
        encoder(chunk.to(torch.bfloat16)[:, None].expand(-1, 3, -1, -1)).last_hidden_state[:, 0]
        for chunk in slices.split(CHUNK)
    ]
    return torch.cat(tokens).float()


@contextmanager
def library() -> Generator[None]:
    """The yardstick's context: the library's own layers."""
    plain_layers(run_library)
    try:
        yield
    finally:
        plain_layers(run_layers)


def plain_step(study: Study, settings: Settings) -> Callable[[], float]:
    """One training step in the plain way, without the slice encoder."""
    model = build_model(settings)

    def step() -> float:
        model.zero_grad(set_to_none=True)
        with library():
            loss = reference.training_loss(model, settings, study.reports, study.image, study.texts)
            loss.backward()
        return loss.item()

    return step


def our_step(study: Study, settings: Settings) -> Callable[[], float]:
    """One training step of ours, from kept tokens."""
    model = build_model(settings)
    objectives, batch = Objectives(model, study.reports, settings), study.batch

    def step() -> float:
        model.zero_grad(set_to_none=True)
        return objectives.backward(batch).total.item()

    return step


def check(told: dict[str, float]) -> None:
    """Both ways must say the same before their times are compared.

    Raises:
        SystemExit: naming what differs.
    """
    pairs = [(f"ours {name} float32", f"plain {name} float32", LOSS_CLOSE) for name in ("all", "clip")]
    pairs += [
        ("ours all bfloat16", "plain all float32", 0.01),
        ("ours clip bfloat16", "plain clip float32", 0.01),
        ("ours encode", "plain encode float32", 0.01),
        ("library all bfloat16", "plain all float32", 0.01),
        ("ours diagnose set", "plain diagnose float32", LOSS_CLOSE),
    ]
    for ours, plain, close in pairs:
        if abs(told[ours] - told[plain]) > close * abs(told[plain]):
            raise SystemExit(f"bench: '{ours}' gives {told[ours]}, '{plain}' {told[plain]}")


def measure(study: Study, runs: int) -> dict[str, float]:
    """Median CPU seconds of each unit over interleaved runs, after one run that is checked."""
    work = units(study)
    check({name: unit() for name, unit in work.items()})
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for run in range(runs):
        for name, unit in work.items():
            begin = time.process_time()
            unit()
            seconds[name].append(time.process_time() - begin)
        print(f"run {run + 1} of {runs}", flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}


def results(seconds: dict[str, float], num_exams: int, num_findings: int) -> list[dict[str, object]]:
    """The paths of `results.json`."""
    ours, plain = {}, {}
    encode = seconds["ours encode"]
    for name in ("all", "clip"):
        step = seconds[f"ours {name} bfloat16"]
        ours[f"train_{name}"] = num_exams * encode + step
        ours[f"train_{name}_kept"] = ours[f"train_{name}_tokens"] = step
    diagnose = seconds["ours diagnose set"] / TEST_EXAMS
    ours["zero_shot"] = encode + diagnose
    ours["zero_shot_kept"] = ours["zero_shot_tokens"] = diagnose
    for precision in PRECISIONS:
        one = seconds[f"plain encode {precision}"]
        for name in ("all", "clip"):
            step = seconds[f"plain {name} {precision}"]
            plain[f"train_{name}", precision] = num_exams * one + step
            plain[f"train_{name}_kept", precision] = plain[f"train_{name}", precision]
            plain[f"train_{name}_tokens", precision] = step
        question = seconds[f"plain diagnose {precision}"]
        plain["zero_shot", precision] = num_findings * (one + question)
        plain["zero_shot_kept", precision] = plain["zero_shot", precision]
        plain["zero_shot_tokens", precision] = num_findings * question
    return [
        {
            "path": path,
            "ratio_fp32": plain[path, "float32"] / ours[path],
            "ratio_bf16": plain[path, "bfloat16"] / ours[path],
            "seconds": ours[path],
            "extrapolated_from": extrapolated(path, num_exams, num_findings),
            "bound": BOUND.get(path) or BOUND[path.replace("_tokens", "_kept")],
        }
        for path in sorted(ours)
    ]


def extrapolated(path: str, num_exams: int, num_findings: int) -> str:
    """Which part of a path was timed once and multiplied."""
    parts = []
    if path.startswith("train") and not path.endswith("_tokens"):
        parts.append(f"the slice encoder: 1 of {num_exams} exams")
    if path.startswith("zero_shot"):
        parts.append(f"the plain way: 1 of {num_findings} findings; ours: a set of {TEST_EXAMS} exams")
    return "; ".join(parts)


def told(found: list[dict[str, object]], seconds: dict[str, float], num_exams: int) -> str:
    """The table, then what keeping tokens wins and costs."""
    lines = [
        "ours: one thread, training.precision and model.vision.precision bfloat16, diagnosis in float32",
        "plain: the same model, weights and data as benchmarks/reference.py computes them",
        "",
    ]
    lines += [f"{'path':<20}{'ours, s':>10}{'/ float32':>11}{'/ bfloat16':>12}   bound by"]
    for row in found:
        lines.append(
            f"{row['path']:<20}{row['seconds']:>10.3f}{row['ratio_fp32']:>11.1f}{row['ratio_bf16']:>12.1f}"
            f"   {row['bound']}"
        )
    encode, step = seconds["ours encode"], seconds["ours all bfloat16"]
    on_line = num_exams * encode + step
    plain = num_exams * seconds["plain encode float32"] + seconds["plain all float32"]
    lines += [
        "",
        f"What the code wins with the encoder in every step: {plain / on_line:.1f}. What kept tokens win on "
        f"top of it, by not computing them again: {on_line / step:.1f}.",
        f"The store: {encode:.2f} s an exam and view, once ({1000 * encode / 60:.0f} minutes for 1,000). "
        f"A step on line costs that for each of its exams in every epoch: kept tokens pay from epoch 2 on "
        f"(with n views from epoch n + 1).",
        f"What our order of operations gains in a step over the library's own pass "
        f"(bfloat16, plain products): "
        f"{seconds['library all bfloat16'] / step:.2f}.",
    ]
    lines += [f"  {name:<26}{value:>9.3f} s" for name, value in seconds.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="climb")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--exams", type=int, default=8, help="in a batch")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("bench: set OMP_NUM_THREADS=1 (make bench does): CPU time is of one thread")
    torch.set_num_threads(1)
    study = make_study(arguments.preset, arguments.exams)
    seconds = measure(study, arguments.runs)
    found = results(seconds, arguments.exams, len(study.settings().evaluation.findings))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    print(told(found, seconds, arguments.exams))


if __name__ == "__main__":
    main()
