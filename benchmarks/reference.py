"""The yardstick: the same model, weights and data in the plain way.

The slice encoder runs in every step over all slices at once, reports are padded to the longest length
that the model knows, vocabulary logits are computed for padding too and ignored in the loss, and each
question of a diagnosis encodes the exam anew. Nothing is slow on purpose: it is what a direct reading of
the model's description gives, with the library's modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from climb_model.model.climb import ClimbModel, ImageTokens, ReportTokens
from climb_model.model.generation_losses import output_table
from climb_model.model.text import ReportEncoder
from configs.schema import Settings

IGNORED = -100


def autocast(precision: str) -> AbstractContextManager[object]:
    """Mixed precision as `torch.autocast` gives it on a CPU."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def encode_slices(encoder: nn.Module, slices: Tensor, precision: str) -> Tensor:
    """DINOv2's class tokens of all slices of an exam in one batch: (slice, row, column) to (slice, dim)."""
    with autocast(precision):
        hidden = encoder(slices[:, None].expand(-1, 3, -1, -1)).last_hidden_state
    return hidden[:, 0].float()


def padded(reports: ReportEncoder, texts: Sequence[tuple[int, ...]]) -> ReportTokens:
    """Reports padded to the longest length of the model."""
    tokens = torch.zeros(len(texts), reports.max_tokens, reports.words.shape[1])
    present = torch.zeros(len(texts), reports.max_tokens, dtype=torch.bool)
    for row, pieces in enumerate(texts):
        tokens[row, : len(pieces)] = reports.vectors(pieces)
        present[row, : len(pieces)] = True
    return ReportTokens(tokens, present)


def training_loss(
    model: ClimbModel,
    settings: Settings,
    reports: ReportEncoder,
    image: ImageTokens,
    texts: Sequence[tuple[int, ...]],
) -> Tensor:
    """Weighted sum of the objectives of a batch whose reports all differ, one for each patient."""
    weights = settings.objectives
    with autocast(settings.training.precision):
        report = padded(reports, texts)
        fused_image, fused_report = model.embed_image(image), model.embed_report(report)
        predicted = logits = None
        if weights.coca:
            table = output_table(reports.words, torch.float32)
            logits = model.predict_report(image, fused_image, report, fused_report) @ table.T
        if weights.inverse_coca:
            predicted = model.predict_slices(report, fused_report, image, fused_image)
    similarity = model.log_scale.exp() * fused_image.vectors @ fused_report.vectors.T
    same = torch.arange(len(texts))
    loss = weights.clip * (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2
    if logits is not None:
        targets = torch.full(logits.shape[:2], IGNORED)
        for row, pieces in enumerate(texts):
            targets[row, : len(pieces) + 1] = torch.tensor([*pieces, reports.end])
        loss = loss + weights.coca * F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED
        )
    if predicted is not None:
        truth = F.layer_norm(image.tokens, image.tokens.shape[-1:])
        gap = F.smooth_l1_loss(predicted.float(), truth, reduction="none").mean(dim=-1)
        loss = loss + weights.inverse_coca * (gap * image.present).sum() / image.present.sum()
    return loss


@torch.no_grad()
def diagnose(
    model: ClimbModel, settings: Settings, reports: ReportEncoder, image: ImageTokens, pair: tuple[str, str]
) -> Tensor:
    """Probability of one finding in the first exam: image and both prompts embedded for this one question."""
    with autocast(settings.training.precision):
        exam = model.embed_image(image[:1])
        texts = [reports.tokenize(prompt).pieces for prompt in pair]
        vectors = model.embed_report(padded(reports, texts)).vectors
    margins = model.log_scale.exp() * exam.vectors @ vectors.T
    return margins.softmax(dim=-1)[0, 0]
