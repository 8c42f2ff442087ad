"""The trainable part of CLIMB: everything between frozen tokens and unit vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from climb_model.model.fusion import Fusion
from climb_model.model.generation import ReportGenerator, SliceGenerator, reused_report, reused_slices
from climb_model.model.language_model import LanguageModel, LanguageModelFusion
from configs.schema import Settings

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class ImageTokens:
    """Frozen slice tokens of a batch; index in the second axis = sequence x slices + slice."""

    tokens: Float[Tensor, "exam slice_token dim"]
    present: Bool[Tensor, "exam slice_token"]

    def __getitem__(self, exams: slice | list[int]) -> ImageTokens:
        """Some of the exams."""
        return ImageTokens(self.tokens[exams], self.present[exams])

    def to(self, device: torch.device) -> ImageTokens:
        """The same on a device."""
        return ImageTokens(self.tokens.to(device), self.present.to(device))


@dataclass(frozen=True)
class ReportTokens:
    """Frozen text tokens of a batch, padded at the end."""

    tokens: Float[Tensor, "exam token text_dim"]
    present: Bool[Tensor, "exam token"]

    def __getitem__(self, exams: list[int]) -> ReportTokens:
        """Some of the exams."""
        return ReportTokens(self.tokens[exams], self.present[exams])

    def to(self, device: torch.device) -> ReportTokens:
        """The same on a device."""
        return ReportTokens(self.tokens.to(device), self.present.to(device))


@dataclass(frozen=True)
class Embeddings:
    """One modality of a batch after fusion; the states feed the generators."""

    vectors: Float[Tensor, "exam dim"]
    states: Float[Tensor, "exam state dim"]
    """Of all tokens, the class token's last; or its alone."""

    def __getitem__(self, exams: list[int]) -> Embeddings:
        """Some of the exams."""
        return Embeddings(self.vectors[exams], self.states[exams])


class ClimbModel(nn.Module):
    """Fusion, projections, slice positions, temperature, and the generators that the objectives want.

    The frozen encoders are not inside: they never train, never travel, and their tokens are kept
    on disk. `climb_model.sharing` lists which of these parameters leave a site.
    """

    fusion: Fusion | LanguageModelFusion

    def __init__(self, settings: Settings, language_model: LanguageModel | None = None) -> None:
        super().__init__()
        fusion, num_slices = settings.model.fusion, settings.data.slices
        self.num_slice_tokens = len(settings.data.sequences) * num_slices
        if fusion.language_model:
            self.fusion = LanguageModelFusion(fusion, settings.model.text.width, language_model)
        else:
            self.fusion = Fusion(fusion)
        self.slice_positions = nn.Embedding(fusion.max_slice_tokens, fusion.width)
        # as in ViT and BERT: positions do not drown tokens
        nn.init.normal_(self.slice_positions.weight, std=0.02)
        if not fusion.language_model:
            self.text_projection = nn.Linear(settings.model.text.width, fusion.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        generators, objectives = settings.model.generators, settings.objectives
        self.reuses_fusion = generators.kind == "reused"
        if self.reuses_fusion and objectives.inverse_coca:
            self.image_head = nn.Linear(fusion.width, fusion.width, bias=False)
            self.start_token = nn.Parameter(torch.empty(fusion.width).normal_())
        if not self.reuses_fusion and objectives.coca:
            self.report_generator = ReportGenerator(fusion, generators.depth, settings.model.text.width)
        if not self.reuses_fusion and objectives.inverse_coca:
            self.slice_generator = SliceGenerator(fusion, generators.depth)

    @property
    def language_model(self) -> LanguageModel | None:
        """The frozen model in the place of the fusion's layers."""
        return self.fusion.frozen if isinstance(self.fusion, LanguageModelFusion) else None

    def embed_image(self, image: ImageTokens, *, all_states: bool = True) -> Embeddings:
        """Embed slice tokens. Absent slices are hidden and keep their index.

        Args:
            all_states: False gives the class token's state alone, for less work.
        """
        num_exams, num_tokens, _ = image.tokens.shape
        if num_tokens != self.num_slice_tokens:
            raise ValueError(
                f"the model takes {self.num_slice_tokens} slice tokens an exam, got {num_tokens}"
            )
        index = torch.arange(num_tokens, device=image.tokens.device)
        tokens = image.tokens + self.slice_positions(index)
        if isinstance(self.fusion, LanguageModelFusion):
            tokens = self.fusion.enter(tokens, image.present)
        vectors, states = self.fusion(
            tokens,
            image.present,
            index.expand(num_exams, -1),
            index.new_full((num_exams,), num_tokens),
            all_states=all_states,
        )
        return Embeddings(vectors, states)

    def embed_report(self, report: ReportTokens, *, all_states: bool = True) -> Embeddings:
        """Embed report tokens; the class token takes the position behind the last real one.

        Args:
            all_states: as in `embed_image`.
        """
        num_exams, num_tokens, _ = report.tokens.shape
        index = torch.arange(num_tokens, device=report.tokens.device)
        own_words = isinstance(self.fusion, LanguageModelFusion)
        vectors, states = self.fusion(
            report.tokens if own_words else self.text_projection(report.tokens),
            report.present,
            index.expand(num_exams, -1),
            report.present.sum(dim=1),
            all_states=all_states,
        )
        return Embeddings(vectors, states)

    def predict_report(
        self,
        image: ImageTokens,
        fused_image: Embeddings,
        report: ReportTokens,
        fused_report: Embeddings | None,
    ) -> Float[Tensor, "exam next_token text_dim"]:
        """CoCa: what each next token should be like, from the image; the last row is the end.

        Args:
            fused_report: of the same reports; only a causal fusion that is reused reads it.
        """
        if not self.reuses_fusion:
            return self.report_generator(
                fused_image.states, with_class(image.present), report.tokens, report.present
            )
        assert fused_report is not None
        assert isinstance(self.fusion, Fusion)
        states = reused_report(
            self.fusion,
            fused_image.states[:, :-1],
            image.present,
            fused_report.states[:, :-1],
            report.present,
        )
        return F.linear(states, self.text_projection.weight.T)

    def predict_slices(
        self, report: ReportTokens, fused_report: Embeddings, image: ImageTokens, fused_image: Embeddings
    ) -> Float[Tensor, "exam slice_token dim"]:
        """Inverse CoCa: from the report, what each next slice token should be."""
        if not self.reuses_fusion:
            positions = self.slice_positions.weight[: self.num_slice_tokens]
            return self.slice_generator(
                fused_report.states, with_class(report.present), image.tokens, image.present, positions
            )
        assert isinstance(self.fusion, Fusion)
        states = reused_slices(
            self.fusion,
            self.start_token,
            fused_report.states[:, :-1],
            report.present,
            fused_image.states[:, :-1],
            image.present,
        )
        return self.image_head(states)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the log of the inverse temperature in [0, ln 100]; call after each optimizer step."""
        self.log_scale.clamp_(0.0, MAX_LOG_SCALE)


def with_class(present: Bool[Tensor, "exam token"]) -> Bool[Tensor, "exam token+1"]:
    """The mask of states: a class token, always present, stands behind the tokens."""
    return torch.cat([present, present.new_ones(len(present), 1)], dim=1)


def build_model(settings: Settings, language_model: LanguageModel | None = None) -> ClimbModel:
    """The untrained model: the same weights for the same seed, whatever ran before.

    Args:
        language_model: what `model.fusion.language_model` names, whole; not needed on the meta device.

    Raises:
        ValueError: if the settings name a language model and none is given, or another one.
    """
    wanted = settings.model.fusion.language_model
    given = "" if language_model is None else language_model.name
    if given != wanted and not (torch.get_default_device().type == "meta" and not given):
        raise ValueError(f"model.fusion.language_model is {wanted!r}, the frozen model given is {given!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return ClimbModel(settings, language_model)
