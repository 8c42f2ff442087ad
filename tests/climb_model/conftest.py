"""Exams in memory: tokens, reports and labels without a file."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

TEXTS = (
    "Karzinom oben außen, 12 mm.",
    "Kein Karzinom.",
    "Unauffälliger Befund der Mamma, keine Zyste, kein Fibroadenom.",
    "Zyste.",
    "Kein Karzinom.",
    "Fibroadenom innen, glatt begrenzt.",
    "Keine Zyste abgrenzbar.",
)
PATIENTS = ("P1", "P1", "P2", "P3", "P4", "P5", "P6")


@pytest.fixture(scope="session")
def make_exams() -> Callable[..., Any]:
    """`make_exams(num_exams, ...)`: an ExamSet of random slice tokens and reports, two exams a patient.

    Keywords: `site`, `seed`, `patients`, `reports` (sentences of piece numbers), `labels`, `num_views`.
    """
    from climb_model.data.store import MAGIC, KeptTokens, StoreIndex
    from climb_model.prepare import ExamSet, Sentences

    def make(
        num_exams: int,
        *,
        site: str = "A",
        seed: int = 0,
        patients: tuple[str, ...] | None = None,
        reports: tuple[Sentences, ...] | None = None,
        labels: np.ndarray | None = None,
        num_views: int = 1,
        num_tokens: int = 12,
        width: int = 64,
    ) -> ExamSet:
        rng = np.random.default_rng(seed)
        uids = tuple(f"exam{number:03d}" for number in range(num_exams))
        index = StoreIndex(MAGIC, site, "key", uids, num_views, num_tokens, width, {})
        tokens = rng.standard_normal((num_exams, num_views, num_tokens, width)).astype(np.float16)
        drawn = tuple(
            tuple(tuple(int(p) for p in rng.integers(10, 200, 4)) for _ in range(3)) for _ in range(num_exams)
        )
        return ExamSet(
            site=site,
            uids=uids,
            patients=patients or tuple(f"patient{number // 2}" for number in range(num_exams)),
            kept=KeptTokens(index, tokens, np.ones((num_exams, num_tokens), bool)),
            rows=np.arange(num_exams),
            reports=drawn if reports is None else reports,
            labels=np.full((num_exams, 2), np.nan) if labels is None else labels,
            notices=(),
            left_out={},
        )

    return make


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Any]:
    """`make_case(*overrides)`: settings, model and one batch of seven exams, two reports alike.

    Some slices and a whole sequence are absent, and the trained-on tokens differ from the clean ones.
    """
    import torch

    from climb_model.model.climb import ImageTokens, build_model
    from climb_model.model.text import load_text
    from climb_model.training.step import Batch
    from configs.load import load_settings

    reports = load_text(load_settings("debug").model.text, None)

    def make(*overrides: str, drawn: bool = False) -> SimpleNamespace:
        settings = load_settings("debug", ["training.num_threads=1", *overrides])
        model = build_model(settings)
        with torch.no_grad():  # untrained gains are alike; a forgotten one would not show
            for name, value in model.named_parameters():
                if name.endswith("gamma"):
                    value.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(len(name)))
        generator = torch.Generator().manual_seed(3)
        shape = (len(TEXTS), model.num_slice_tokens, settings.model.fusion.width)
        present = torch.rand(shape[:2], generator=generator) < 0.8
        present[:, 1] = True
        present[0, :4] = False
        present[0, 5] = True
        clean = torch.randn(shape, generator=generator) * present[..., None]
        noisy = clean + 0.1 * torch.randn(shape, generator=generator) * present[..., None]
        whole = tuple((reports.tokenize(text).pieces,) for text in TEXTS)
        if drawn:  # a second sentence that is in no drawn text
            whole = tuple((*report, reports.tokenize("Mamma beidseits dicht.").pieces) for report in whole)
        batch = Batch(
            image=ImageTokens(noisy, present),
            clean=ImageTokens(clean, present),
            texts=tuple(dict.fromkeys(report[:1] if drawn else report for report in whole)),
            reports=whole,
            patients=PATIENTS,
        )
        return SimpleNamespace(settings=settings, model=model, batch=batch)

    return make
