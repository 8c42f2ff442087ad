"""One training step's losses and gradients: CLIP over the whole batch, CoCa and inverse CoCa exam by exam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from climb_model.model.climb import ClimbModel, Embeddings, ImageTokens, ReportTokens
from climb_model.model.embedding import CHUNK, by_length
from climb_model.model.generation_losses import next_token_targets, output_table, report_loss, slice_loss
from climb_model.model.losses import contrastive_loss, pair_masks
from climb_model.model.text import ReportEncoder
from climb_model.prepare import Pieces, Sentences, joined
from climb_model.training.processes import ALONE, Processes
from climb_model.training.split_backward import Embedded, split_backward
from configs.schema import Settings


@dataclass(frozen=True)
class Batch:
    """One step's exams and the texts drawn for them."""

    image: ImageTokens
    """As trained on: with hidden slices and noise, if the settings want them."""

    clean: ImageTokens
    """As the frozen encoder gave them: what inverse CoCa predicts."""

    texts: tuple[Sentences, ...]
    """The different texts of the contrast."""

    reports: tuple[Sentences, ...]
    """Each exam's whole report."""

    patients: tuple[str, ...]


@dataclass(frozen=True)
class Losses:
    """A step's losses, before their weights."""

    total: Float[Tensor, ""]
    """With their weights."""

    clip: Float[Tensor, ""]
    coca: Float[Tensor, ""]
    """Mean over report tokens, in nats."""

    inverse_coca: Float[Tensor, ""]
    """Mean over slices."""


@dataclass(frozen=True)
class PartPlan:
    """What one part of a batch embeds."""

    exams: list[int] = field(default_factory=list[int])
    texts: list[Pieces] = field(default_factory=list[Pieces])
    """Different texts; rows of the contrast behind the exams' own."""


class Objectives:
    """The losses of a model's settings, with the frozen output table that CoCa needs."""

    def __init__(
        self,
        model: ClimbModel,
        reports: ReportEncoder,
        settings: Settings,
        processes: Processes = ALONE,
    ) -> None:
        self.model = model
        self.reports = reports
        self.settings = settings
        self.processes = processes
        self.device = model.log_scale.device
        self.dtype = torch.bfloat16 if settings.training.precision == "bfloat16" else torch.float32
        weights = settings.objectives
        self.generates = bool(weights.coca or weights.inverse_coca)
        self.reads_images = bool(weights.coca or (weights.inverse_coca and model.reuses_fusion))
        self.reads_reports = bool(weights.inverse_coca or (weights.coca and model.reuses_fusion))
        self.table = output_table(reports.words.to(self.device), self.dtype) if weights.coca else None

    def backward(self, batch: Batch) -> Losses:
        """Add the gradients of a batch to the parameters; the same in every process at the end.

        Vectors are normed, and losses computed, in float32 in every precision. With
        `training.chunk_size` the activations of so many exams or texts are in memory at once.
        """
        texts = [joined(text) for text in batch.texts]
        whole = [joined(report) for report in batch.reports]
        plans = self.plan_parts(texts, whole)
        image_rows, text_rows = row_places(plans, len(whole), texts)
        positive, allowed = pair_masks(
            batch.texts,
            batch.reports,
            batch.patients,
            drawn=self.settings.training.report_sentences > 0,
        )
        positive, allowed = positive.to(self.device), allowed.to(self.device)
        told: list[Tensor] = []
        weights, model = self.settings.objectives, self.model

        def loss_of(rows: Tensor) -> Tensor:
            return weights.clip * contrastive_loss(
                rows[image_rows], rows[text_rows], model.log_scale, positive, allowed
            )

        num_tokens = sum(len(pieces) + 1 for pieces in whole)
        num_slices = max(int(batch.clean.present.sum()), 1)
        parts = [partial(self._embed, plan, batch, whole, num_tokens, num_slices, told) for plan in plans]
        clip = split_backward(
            parts,
            [len(plan.exams) + len(plan.texts) for plan in plans],
            loss_of,
            keep=not self.settings.training.chunk_size,
            autocast=self._autocast,
            processes=self.processes,
        )
        self.processes.add_gradients(model, same_everywhere=[model.log_scale])
        own = torch.stack(told).sum(dim=0) if told else torch.zeros(2, device=self.device)
        coca, inverse = self.processes.add(own)
        total = clip + weights.coca * coca + weights.inverse_coca * inverse
        return Losses(total, clip / weights.clip, coca, inverse)

    def plan_parts(self, texts: Sequence[Pieces], whole: Sequence[Pieces]) -> list[PartPlan]:
        """Which exams and texts are embedded together.

        Whole reports that a generator reads too are embedded beside their images, once; sorted by
        length, so that little is padded. Drawn sentences are parts of their own.

        Args:
            texts: the different texts of the contrast.
            whole: each exam's whole report.
        """
        size, processes = self.settings.training.chunk_size, self.processes.size
        num_exams = len(whole)
        together = self.reads_reports and not self.settings.training.report_sentences
        order = list(range(num_exams))
        if self.reads_reports:
            order.sort(key=lambda exam: (len(whole[exam]), whole[exam]))
        exams_at_once = size or (CHUNK if self.reads_reports else num_exams)
        plans = [
            PartPlan(exams=[order[place] for place in span])
            for span in spans(num_exams, exams_at_once, processes)
        ]
        if together:
            return [PartPlan(plan.exams, by_length([whole[exam] for exam in plan.exams])) for plan in plans]
        ordered = by_length(texts)
        groups = spans(len(ordered), size or CHUNK, processes)
        return plans + [PartPlan(texts=[ordered[place] for place in span]) for span in groups]

    def _autocast(self, enabled: bool) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=enabled and self.dtype == torch.bfloat16
        )

    def _embed(
        self,
        plan: PartPlan,
        batch: Batch,
        whole: list[Pieces],
        num_tokens: int,
        num_slices: int,
        told: list[Tensor],
    ) -> Embedded:
        """Vectors of a part's exams, then of its texts; and its share of the generators' losses."""
        model = self.model
        vectors: list[Tensor] = []
        image = texts = None
        image_tokens = batch.image[plan.exams].to(self.device) if plan.exams else None
        text_tokens = self.reports.batch(plan.texts).to(self.device) if plan.texts else None
        if image_tokens is not None:
            image = model.embed_image(image_tokens, all_states=self.reads_images)
            vectors.append(image.vectors)
        if text_tokens is not None:
            texts = model.embed_report(text_tokens, all_states=self.reads_reports)
            vectors.append(texts.vectors)

        def own_loss() -> Tensor | None:
            if not self.generates or image is None or image_tokens is None:
                return None
            pieces = [whole[exam] for exam in plan.exams]
            report_tokens, report = self._reports(plan, pieces, text_tokens, texts)
            coca = inverse = image.vectors.new_zeros(())
            weights = self.settings.objectives
            if weights.coca:
                coca = self._coca(pieces, image_tokens, image, report_tokens, report) / num_tokens
            if weights.inverse_coca:
                assert report is not None
                clean = batch.clean[plan.exams].to(self.device)
                predicted = model.predict_slices(report_tokens, report, image_tokens, image)
                inverse = slice_loss(predicted, clean.tokens, clean.present, weights.image_loss) / num_slices
            told.append(torch.stack([coca.detach(), inverse.detach()]))
            return weights.coca * coca + weights.inverse_coca * inverse

        return Embedded(torch.cat(vectors), own_loss)

    def _reports(
        self,
        plan: PartPlan,
        pieces: list[Pieces],
        text_tokens: ReportTokens | None,
        texts: Embeddings | None,
    ) -> tuple[ReportTokens, Embeddings | None]:
        """The whole report of each exam of a part; embedded, if a generator reads that."""
        if texts is not None and text_tokens is not None:
            rows = [plan.texts.index(report) for report in pieces]
            return text_tokens[rows], texts[rows]
        tokens = self.reports.batch(pieces).to(self.device)
        return tokens, self.model.embed_report(tokens) if self.reads_reports else None

    def _coca(
        self,
        pieces: list[Pieces],
        image_tokens: ImageTokens,
        image: Embeddings,
        report_tokens: ReportTokens,
        report: Embeddings | None,
    ) -> Tensor:
        assert self.table is not None
        if self.reports.bert is not None:  # its vectors of earlier words hold the later ones
            report_tokens = self.reports.word_batch(pieces).to(self.device)
        predicted = self.model.predict_report(image_tokens, image, report_tokens, report)
        places, targets = next_token_targets(pieces, self.reports.end, predicted.shape[1])
        return report_loss(
            predicted.flatten(0, 1)[places.to(self.device)], targets.to(self.device), self.table
        )


def row_places(plans: Sequence[PartPlan], num_exams: int, texts: Sequence[Pieces]) -> tuple[Tensor, Tensor]:
    """Where each exam's vector and each text's lie among the rows of all parts."""
    exam_place = [0] * num_exams
    text_place: dict[Pieces, int] = {}
    row = 0
    for plan in plans:
        for exam in plan.exams:
            exam_place[exam] = row
            row += 1
        for text in plan.texts:
            text_place.setdefault(text, row)  # a report that two parts hold is contrasted once
            row += 1
    return torch.tensor(exam_place), torch.tensor([text_place[text] for text in texts])


def spans(number: int, at_once: int, processes: int) -> list[range]:
    """0 to `number` in even runs of at most `at_once`, one or more for each process where that can be."""
    num_parts = max(-(-number // at_once), min(processes, number))
    ends = [number * part // num_parts for part in range(num_parts + 1)]
    return [range(first, last) for first, last in pairwise(ends)]
