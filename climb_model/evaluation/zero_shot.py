"""Zero-shot diagnosis: is the image nearer to "Karzinom." or to "Kein Karzinom."?"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from climb_model.model.climb import ClimbModel
from climb_model.model.embedding import embed_texts
from climb_model.model.frozen import zero_shot_prompts
from climb_model.model.text import ReportEncoder
from climb_model.prepare import ExamSet
from configs.schema import Settings

CHUNK = 64
"""Exams embedded at once."""


@dataclass(frozen=True)
class ZeroShot:
    """Scores of a set of exams, row by row."""

    findings: tuple[str, ...]
    uids: tuple[str, ...] = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    scores: np.ndarray = field(repr=False)
    """(exam, finding) probability of the positive prompt."""
    labels: np.ndarray = field(repr=False)
    """(exam, finding) 1, 0 or NaN for unknown."""


@torch.inference_mode()
def zero_shot(model: ClimbModel, exams: ExamSet, reports: ReportEncoder, settings: Settings) -> ZeroShot:
    """Embed each exam once and all prompts once; all findings follow in one product.

    The score is the softmax over the two prompts of (inverse temperature x cosine), Radford et al.
    2021, section 3.1.2. Several wordings of a prompt are averaged as unit vectors.
    """
    model.eval()
    positive, negative = prompt_vectors(model, reports, settings)
    images = image_vectors(model, exams)
    margin = model.log_scale.exp() * images @ (positive - negative).T
    return ZeroShot(
        findings=tuple(settings.evaluation.findings),
        uids=exams.uids,
        patients=exams.patients,
        scores=torch.sigmoid(margin.double()).numpy(),
        labels=exams.labels,
    )


def image_vectors(model: ClimbModel, exams: ExamSet) -> Float[Tensor, "exam dim"]:
    """Unit vectors of all exams' images, without augmentation, in the order of the set."""
    rows = np.arange(exams.num_exams)
    return torch.cat(
        [
            model.embed_image(exams.images(rows[first : first + CHUNK]), all_states=False).vectors
            for first in range(0, len(rows), CHUNK)
        ]
    )


def prompt_vectors(
    model: ClimbModel, reports: ReportEncoder, settings: Settings
) -> tuple[Float[Tensor, "finding dim"], Float[Tensor, "finding dim"]]:
    """Unit vectors of 'present' and 'absent' for every finding."""
    groups = [prompts for side in zip(*zero_shot_prompts(settings), strict=True) for prompts in side]
    texts = [reports.tokenize(prompt).pieces for prompts in groups for prompt in prompts]
    found = embed_texts(model, reports, texts).split([len(prompts) for prompts in groups])
    averages = F.normalize(torch.stack([vectors.mean(dim=0) for vectors in found]), dim=-1)
    positive, negative = averages.split(len(groups) // 2)
    return positive, negative
