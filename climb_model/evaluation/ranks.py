"""Ranks of correct answers among answers ordered by cosine, where equal cosines are in random order."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from climb_model.evaluation.statistics import FloatArray

TOLERANCE = 1e-6
"""Cosines that differ by less are equal: float32 vectors do not tell them apart."""

CHUNK = 512
"""Questions whose cosines are held at once."""


def places_of(
    asking: Float[Tensor, "question dim"],
    wanted: Int[Tensor, " question"],
    answers: Float[Tensor, "answer dim"],
    kind: Int[Tensor, " answer"],
) -> Int[np.ndarray, "question 4"]:
    """Where the nearest correct answer stands; an answer is correct if its kind is the wanted one.

    Returns:
        Answers above it, answers level with it (itself among them), correct ones of these, and correct ones
        of all.
    """
    answers = answers.double()
    parts: list[Tensor] = []
    for first in range(0, len(asking), CHUNK):
        cosines = asking[first : first + CHUNK].double() @ answers.T
        correct = wanted[first : first + CHUNK, None] == kind[None]
        best = cosines.masked_fill(~correct, float("-inf")).amax(dim=1, keepdim=True)
        above = cosines > best + TOLERANCE
        level = (cosines >= best - TOLERANCE) & ~above
        parts.append(torch.stack([found.sum(1) for found in (above, level, level & correct, correct)], 1))
    return torch.cat(parts).numpy()


def at_chance(places: Int[np.ndarray, "question 4"], num_answers: int) -> Int[np.ndarray, "question 3"]:
    """The first three columns of `places_of` if all answers were level."""
    none = np.zeros_like(places[:, 3])
    return np.stack([none, none + num_answers, places[:, 3]], axis=1)


def rank_shares(
    places: Int[np.ndarray, "question 3"], num_answers: int, weights: FloatArray
) -> Float[np.ndarray, "draw answer"]:
    """Expected share of the questions with a correct answer among the first one, two, ... of all.

    Args:
        places: the first three columns of `places_of`.
        weights: (draw, question) how often each question is asked in a draw.
    """
    above, level, correct = places.T
    sure = level == correct  # whatever the order, the first of them is correct
    places = np.stack([above, np.where(sure, 1, level), np.where(sure, 1, correct)], axis=1)
    kinds, kind_of = np.unique(places, axis=0, return_inverse=True)
    order = np.argsort(kind_of, kind="stable")
    first_of_kind = np.searchsorted(kind_of[order], np.arange(len(kinds)))
    counts = np.add.reduceat(weights[:, order], first_of_kind, axis=1)  # (draw, kind)

    sure = kinds[:, 1] == 1
    shares = np.zeros((len(weights), num_answers))
    shares[:, kinds[sure, 0]] = counts[:, sure]
    shares = np.cumsum(shares, axis=1)
    (tied,) = np.nonzero(~sure)
    for first in range(0, len(tied), CHUNK):
        part = tied[first : first + CHUNK]
        shares += counts[:, part] @ _random_order(kinds[part], num_answers)
    return shares / weights.sum(axis=1, keepdims=True)


def _random_order(kinds: Int[np.ndarray, "kind 3"], num_answers: int) -> Float[np.ndarray, "kind answer"]:
    """Chance that a correct answer is among the first one, two, ... when the level ones are shuffled.

    One minus the chance to draw, without putting back, only wrong ones.
    """
    above, level, correct = (column[:, None] for column in kinds.T)
    drawn = np.arange(num_answers) - above  # level answers already seen
    wrong = 1 - correct / np.maximum(level - drawn, 1)
    return 1 - np.cumprod(np.where(drawn < 0, 1.0, np.maximum(wrong, 0.0)), axis=1)


def recall_at(shares: Float[np.ndarray, "draw answer"], cutoff: int) -> Float[np.ndarray, " draw"]:
    """Share with a correct answer among the first `cutoff`; all, if there are fewer answers.

    Args:
        shares: of `rank_shares`.
    """
    return shares[:, min(cutoff, shares.shape[1]) - 1]


def median_rank(shares: Float[np.ndarray, "draw answer"]) -> Float[np.ndarray, " draw"]:
    """Middle of the shares at which half of the questions are answered."""
    rounding = 1e-9
    reaches = np.argmax(shares >= 0.5 - rounding, axis=1)
    exceeds = np.argmax(shares > 0.5 + rounding, axis=1)
    return (reaches + exceeds) / 2 + 1
