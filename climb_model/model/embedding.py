"""Many texts at once: each different one embedded once, among texts of its length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from climb_model.model.climb import ClimbModel
from climb_model.model.text import ReportEncoder

CHUNK = 32
"""Texts of similar length that are padded together."""


def embed_texts(
    model: ClimbModel, reports: ReportEncoder, texts: Sequence[tuple[int, ...]]
) -> Float[Tensor, "text dim"]:
    """Unit vectors of texts, in their order.

    Padding and neighbours do not change a text's vector, so sorting by length and dropping repeats
    change only the time.
    """
    different = by_length(texts)
    vectors = [
        model.embed_report(reports.batch(different[first : first + CHUNK]), all_states=False).vectors
        for first in range(0, len(different), CHUNK)
    ]
    return torch.cat(vectors)[rows_of(texts, different)]


def by_length(texts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Each different text once, the short ones first."""
    return sorted(set(texts), key=lambda text: (len(text), text))


def rows_of(texts: Sequence[tuple[int, ...]], different: Sequence[tuple[int, ...]]) -> Int[Tensor, " text"]:
    """The place of each text among the different ones."""
    number = {text: row for row, text in enumerate(different)}
    return torch.tensor([number[text] for text in texts])
