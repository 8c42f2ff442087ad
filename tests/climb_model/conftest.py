"""Exams in memory: tokens, reports and labels without a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


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
