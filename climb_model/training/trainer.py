"""A round of local training: the full model, on this site's exams and reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from climb_model.model.climb import ClimbModel, ImageTokens
from climb_model.model.embedding import CHUNK, by_length, rows_of
from climb_model.model.losses import contrastive_loss, pair_masks
from climb_model.model.text import ReportEncoder
from climb_model.prepare import ExamSet, Sentences
from climb_model.training.batches import plan_round, round_seed
from climb_model.training.gradient_cache import Part, cached_backward
from climb_model.training.schedule import learning_rate
from configs.errors import UserError
from configs.schema import Settings, TrainingConfig

OptimizerState = dict[str, Any]
NO_DECAY = ("gamma", "beta", "bias", "slice_positions", "class_token", "log_scale")
"""Norms, embeddings and the temperature: weight decay has no business there."""


class TrainingError(UserError):
    """Training that cannot go on; the message names site and step and holds no data."""


@dataclass(frozen=True)
class TrainReport:
    """What one round of local training was."""

    num_exams: int
    num_steps: int
    loss: float
    """Mean over the round's steps, in nats."""
    seconds: float


def make_optimizer(model: ClimbModel, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with decay on weight matrices only."""
    named = sorted(model.named_parameters(), key=lambda item: item[0])
    free = [
        value for name, value in named if name.split(".")[-1] in NO_DECAY or name.split(".")[0] in NO_DECAY
    ]
    decayed = [value for _, value in named if all(value is not other for other in free)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.adam_betas[0], config.adam_betas[1]), fused=True
    )


def train_round(
    model: ClimbModel,
    optimizer_state: OptimizerState | None,
    exams: ExamSet,
    reports: ReportEncoder,
    settings: Settings,
    *,
    round: int,
    global_step: int,
    on_step: Callable[[int, int, float], None] | None = None,
) -> tuple[TrainReport, OptimizerState]:
    """Train one round in place.

    All randomness comes from (seed, site, round), so the same call gives the same weights.

    Args:
        model: changed in place.
        optimizer_state: AdamW's, as returned by the round before; None starts afresh.
        global_step: the study's step at the start of this round; decides the learning rate.
        on_step: called with (step, steps, loss) after each step.

    Returns:
        The report, and the optimizer's state for the next round.

    Raises:
        TrainingError: if a loss or gradient is not finite; the model is then not to be used.
        DataError: with fewer than two patients.
    """
    config = settings.training
    start = time.perf_counter()
    torch.set_num_threads(config.num_threads)
    seed = round_seed(settings.seed, exams.site, round)
    rng = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(seed)
    optimizer = make_optimizer(model, config)
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    model.train()
    plans = list(plan_round(exams, config, exams.kept.index.num_views, rng))
    total = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout inside the library's layers
        for step, plan in enumerate(plans, start=1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, global_step + step - 1)
            image = perturb(exams.images(plan.exams, plan.views), config, noise)
            patients = [exams.patients[row] for row in plan.exams]
            whole = [exams.reports[row] for row in plan.exams]
            optimizer.zero_grad(set_to_none=True)
            loss = clip_backward(model, image, reports, plan.texts, whole, patients, config)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
            if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
                raise TrainingError(
                    f"site '{exams.site}': loss {loss.item()} and gradient norm {norm.item()} "
                    f"at round {round}, step {step}; wanted finite numbers"
                )
            optimizer.step()
            model.clamp_temperature()
            total += loss.item()
            if on_step is not None:
                on_step(step, len(plans), loss.item())
    report = TrainReport(exams.num_exams, len(plans), total / len(plans), time.perf_counter() - start)
    return report, optimizer.state_dict()


def clip_backward(
    model: ClimbModel,
    image: ImageTokens,
    reports: ReportEncoder,
    texts: tuple[Sentences, ...],
    whole: list[Sentences],
    patients: list[str],
    config: TrainingConfig,
) -> Float[Tensor, ""]:
    """Add the gradients of the contrastive loss of a batch of images and the texts drawn for it.

    Embeddings and loss are float32 in every precision. With `training.chunk_size` the activations of
    so many exams or texts are in memory at once.

    Returns:
        The loss, detached.
    """
    positive, allowed = pair_masks(texts, whole, patients, drawn=config.report_sentences > 0)
    pieces = [joined(text) for text in texts]
    different = by_length(pieces)
    order = rows_of(pieces, different)
    num_images = len(patients)

    def embed_images(first: int) -> Tensor:
        some = slice(first, first + image_rows)
        return model.embed_image(ImageTokens(image.tokens[some], image.present[some])).vectors

    def embed_reports(first: int) -> Tensor:
        return model.embed_report(reports.batch(different[first : first + text_rows])).vectors

    def in_precision(embed: Part) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            return embed()

    def loss_of(vectors: Tensor) -> Tensor:
        image_vectors, text_vectors = vectors[:num_images], vectors[num_images:][order]
        return contrastive_loss(image_vectors, text_vectors, model.log_scale, positive, allowed)

    image_rows, text_rows = config.chunk_size or num_images, config.chunk_size or CHUNK
    parts: list[Part] = [partial(embed_images, first) for first in range(0, num_images, image_rows)]
    parts += [partial(embed_reports, first) for first in range(0, len(different), text_rows)]
    if config.chunk_size:
        return cached_backward([partial(in_precision, part) for part in parts], loss_of)
    loss = loss_of(in_precision(lambda: torch.cat([part() for part in parts])))  # weights are cast once
    loss.backward()
    return loss.detach()


def joined(text: Sentences) -> tuple[int, ...]:
    """The piece numbers of a text without its sentence borders."""
    return tuple(piece for sentence in text for piece in sentence)


def perturb(image: ImageTokens, config: TrainingConfig, noise: torch.Generator) -> ImageTokens:
    """Hide random slices and add noise to the rest, as the settings say."""
    tokens, present = image.tokens, image.present
    if config.token_noise:
        spread = tokens[present].std()
        tokens = tokens + config.token_noise * spread * torch.randn(tokens.shape, generator=noise)
    if config.slice_dropout:
        hidden = torch.rand(present.shape, generator=noise) < config.slice_dropout
        present = present & ~(hidden & (present & ~hidden).any(dim=1, keepdim=True))
    return ImageTokens(tokens, present)
