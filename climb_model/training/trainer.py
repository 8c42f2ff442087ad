"""A round of local training: the full model, on this site's exams and reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from climb_model.model.climb import ClimbModel, ImageTokens
from climb_model.model.text import ReportEncoder
from climb_model.prepare import ExamSet
from climb_model.training.batches import BatchPlan, plan_round, round_seed, trainable
from climb_model.training.behind import Behind, behind_update
from climb_model.training.errors import TrainingError
from climb_model.training.memory import largest_batch, told_of_memory
from climb_model.training.processes import ALONE, Processes
from climb_model.training.schedule import learning_rate
from climb_model.training.step import Batch, Losses, Objectives
from configs.schema import Settings, TrainingConfig

OptimizerState = dict[str, Any]
NO_DECAY = (
    "gamma",
    "beta",
    "bias",
    "slice_positions",
    "class_token",
    "start_token",
    "start",
    "log_scale",
)
"""Norms, embeddings and the temperature: weight decay has no business there."""


@dataclass(frozen=True)
class TrainReport:
    """What one round of local training was."""

    num_exams: int
    """Those that training can take: with a report."""
    num_steps: int
    loss: float
    """Mean over the round's steps of the objectives' weighted sum."""
    losses: dict[str, float]
    """The same mean of each objective that has a weight, without it: for the site's own screen."""
    seconds: float
    behind: Behind
    """For the site's own policy."""

    @property
    def parts(self) -> str:
        """The objectives' losses in words, such as `clip 2.3026, coca 5.1000`."""
        return ", ".join(f"{name} {value:.4f}" for name, value in self.losses.items())


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
    processes: Processes = ALONE,
) -> tuple[TrainReport, OptimizerState]:
    """Train one round in place.

    All randomness comes from (seed, site, round), so the same call gives the same weights.

    Args:
        model: changed in place; trained on the device that it is on.
        optimizer_state: AdamW's, as returned by the round before; None starts afresh.
        global_step: the study's step at the start of this round; decides the learning rate.
        on_step: called with (step, steps, loss) after each step.
        processes: those that share each batch. All must make the same call and end with the same weights.

    Returns:
        The report, and the optimizer's state for the next round.

    Raises:
        TrainingError: if a loss or gradient is not finite, or memory runs out; the model is then not
            to be used.
        DataError: with fewer than two patients.
    """
    config = settings.training
    start = time.perf_counter()
    torch.set_num_threads(config.num_threads)
    seed = round_seed(settings.seed, exams.site, round)
    plans = list(plan_round(exams, config, exams.kept.index.num_views, np.random.default_rng(seed)))
    optimizer = make_optimizer(model, config)
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    model.train()
    objectives = Objectives(model, reports, settings, processes)
    noise = torch.Generator().manual_seed(seed)
    told: list[Losses] = []
    gpus = [objectives.device] if objectives.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        if gpus and optimizer_state is None:  # run out of memory now, not after hours
            rehearse(objectives, exams, settings)
        torch.manual_seed(seed)  # dropout inside the library's layers
        for step, plan in enumerate(plans, start=1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, global_step + step - 1)
            with told_of_memory(exams.site, config, len(plan.exams), processes.size):
                losses = take_step(
                    objectives,
                    optimizer,
                    batch_of(exams, plan, config, noise),
                    site=exams.site,
                    where=f"round {round}, step {step}",
                )
            told.append(losses)
            if on_step is not None:
                on_step(step, len(plans), losses.total.item())
    report = TrainReport(
        num_exams=len(trainable(exams)),
        num_steps=len(plans),
        loss=sum(losses.total.item() for losses in told) / len(told),
        losses=mean_losses(told, settings),
        seconds=time.perf_counter() - start,
        behind=behind_update(plans, exams.reports, config, global_step),
    )
    return report, optimizer.state_dict()


def take_step(
    objectives: Objectives, optimizer: torch.optim.Optimizer, batch: Batch, *, site: str, where: str
) -> Losses:
    """Change the weights by the clipped gradients of one batch.

    Args:
        site: for the error.
        where: for the error: round and step.

    Raises:
        TrainingError: if the loss or the gradient is not finite; the weights are then as before.
    """
    model = objectives.model
    optimizer.zero_grad(set_to_none=True)
    losses = objectives.backward(batch)
    most = objectives.settings.training.max_gradient_norm
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), most)
    loss = losses.total.item()
    if not math.isfinite(loss) or not math.isfinite(norm.item()):
        raise TrainingError(
            f"site '{site}': loss {loss} and gradient norm {norm.item()} at {where}; wanted finite numbers"
        )
    optimizer.step()
    model.clamp_temperature()
    return losses


def rehearse(objectives: Objectives, exams: ExamSet, settings: Settings) -> None:
    """Compute the gradients of the largest batch of a round, and forget them.

    Raises:
        TrainingError: if memory runs out.
    """
    plan = largest_batch(exams, settings.training)
    with told_of_memory(exams.site, settings.training, len(plan.exams), objectives.processes.size):
        objectives.backward(batch_of(exams, plan, settings.training, torch.Generator().manual_seed(0)))
    objectives.model.zero_grad(set_to_none=True)


def batch_of(exams: ExamSet, plan: BatchPlan, config: TrainingConfig, noise: torch.Generator) -> Batch:
    """The plan's exams, loaded and perturbed."""
    clean = exams.images(plan.exams, plan.views)
    return Batch(
        image=perturb(clean, config, noise),
        clean=clean,
        texts=plan.texts,
        reports=tuple(exams.reports[row] for row in plan.exams),
        patients=tuple(exams.patients[row] for row in plan.exams),
    )


def mean_losses(told: Sequence[Losses], settings: Settings) -> dict[str, float]:
    """Each weighted objective's mean over steps."""
    weights = settings.objectives
    means = {"clip": sum(losses.clip.item() for losses in told) / len(told)}
    if weights.coca:
        means["coca"] = sum(losses.coca.item() for losses in told) / len(told)
    if weights.inverse_coca:
        means["inverse_coca"] = sum(losses.inverse_coca.item() for losses in told) / len(told)
    return means


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
