"""The yardstick computes what we compute, and the table's ratios are what they say."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from climb_model.model.climb import ImageTokens, build_model
from climb_model.model.text import load_text
from climb_model.training.step import Batch, Objectives
from configs.load import load_settings


@pytest.fixture(scope="module")
def modules(checkout: Path) -> Iterator[SimpleNamespace]:
    """`reference.py` and `bench.py`, which are scripts in a folder of their own."""
    sys.path.insert(0, str(checkout / "benchmarks"))
    try:
        yield SimpleNamespace(
            reference=importlib.import_module("reference"), bench=importlib.import_module("bench")
        )
    finally:
        sys.path.remove(str(checkout / "benchmarks"))
        for name in ("reference", "bench"):
            sys.modules.pop(name)


@pytest.mark.parametrize("objectives", [0, 1], ids=["clip", "all"])
def test_the_plain_step_has_our_loss_and_gradients(objectives: int, modules: SimpleNamespace) -> None:
    settings = load_settings(
        "debug", [f"objectives.coca={objectives}", f"objectives.inverse_coca={objectives}"]
    )
    reports, model = load_text(settings.model.text, None), build_model(settings)
    generator = torch.Generator().manual_seed(0)
    image = ImageTokens(
        torch.randn(3, model.num_slice_tokens, 64, generator=generator),
        torch.ones(3, model.num_slice_tokens, dtype=torch.bool),
    )
    texts = [reports.tokenize(text).pieces for text in ("Zyste links.", "Kein Karzinom.", "Adenose, 4 mm.")]
    whole = tuple((text,) for text in texts)
    batch = Batch(image, image, whole, whole, ("P1", "P2", "P3"))
    ours = Objectives(model, reports, settings).backward(batch).total.item()
    gradients = {
        name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None
    }
    model.zero_grad()
    with modules.bench.library():
        plain = modules.reference.training_loss(model, settings, reports, image, texts)
        plain.backward()
    assert plain.item() == pytest.approx(ours, rel=1e-4)
    for name, value in model.named_parameters():
        assert value.grad is not None
        size_of_terms = 1.0 if name == "log_scale" else value.grad.norm()
        assert (gradients[name] - value.grad).norm() <= 1e-4 * size_of_terms, name


def test_ratios_are_the_plain_ways_seconds_over_ours(modules: ModuleType) -> None:
    seconds = {f"plain encode {kind}": value for kind, value in (("float32", 16.0), ("bfloat16", 5.0))}
    seconds |= {f"plain diagnose {kind}": value for kind, value in (("float32", 0.3), ("bfloat16", 0.2))}
    seconds |= {f"plain {name} {kind}": 12.0 for name in ("all", "clip") for kind in ("float32", "bfloat16")}
    seconds |= {f"ours {name} float32": 2.0 for name in ("all", "clip")}
    seconds |= {f"ours {name} bfloat16": 1.0 for name in ("all", "clip")}
    seconds |= {"ours encode": 2.0, "ours diagnose set": 32 * 0.02}
    rows = {row["path"]: row for row in modules.bench.results(seconds, 8, 9)}
    assert set(rows) == {
        f"{path}{kind}"
        for path in ("train_all", "train_clip", "zero_shot")
        for kind in ("", "_kept", "_tokens")
    }
    assert set(rows["train_all"]) == {
        "path",
        "ratio_fp32",
        "ratio_bf16",
        "seconds",
        "extrapolated_from",
        "bound",
    }
    assert rows["train_all"]["ratio_fp32"] == pytest.approx((8 * 16 + 12) / (8 * 2 + 1))
    assert rows["train_all_kept"]["ratio_bf16"] == pytest.approx((8 * 5 + 12) / 1)
    assert rows["train_all_tokens"]["ratio_fp32"] == pytest.approx(12)
    assert rows["zero_shot"]["ratio_fp32"] == pytest.approx(9 * 16.3 / 2.02)
    assert rows["zero_shot_kept"]["ratio_bf16"] == pytest.approx(9 * 5.2 / 0.02)
    assert rows["zero_shot_tokens"]["ratio_fp32"] == pytest.approx(9 * 0.3 / 0.02)
