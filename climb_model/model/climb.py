"""The trainable part of CLIMB: everything between frozen tokens and unit vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from climb_model.model.fusion import Fusion
from climb_model.model.language_model import LanguageModel, LanguageModelFusion
from configs.schema import Settings

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class ImageTokens:
    """Frozen slice tokens of a batch; index in the second axis = sequence x slices + slice."""

    tokens: Float[Tensor, "exam slice_token dim"]
    present: Bool[Tensor, "exam slice_token"]


@dataclass(frozen=True)
class ReportTokens:
    """Frozen text tokens of a batch, padded at the end."""

    tokens: Float[Tensor, "exam token text_dim"]
    present: Bool[Tensor, "exam token"]


@dataclass(frozen=True)
class Embeddings:
    """One modality of a batch after fusion; the states feed the generators."""

    vectors: Float[Tensor, "exam dim"]
    states: Float[Tensor, "exam token dim"]


class ClimbModel(nn.Module):
    """Fusion, projections, slice positions and temperature: what is trained, and here also shared.

    The frozen encoders are not inside: they never train, never travel, and their tokens are kept
    on disk. Generators (report from image, image from report) attach to `Embeddings.states`.
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

    def embed_image(self, image: ImageTokens) -> Embeddings:
        """Embed slice tokens. Absent slices are hidden and keep their index."""
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
        )
        return Embeddings(vectors, states)

    def embed_report(self, report: ReportTokens) -> Embeddings:
        """Embed report tokens; the class token takes the position behind the last real one."""
        num_exams, num_tokens, _ = report.tokens.shape
        index = torch.arange(num_tokens, device=report.tokens.device)
        own_words = isinstance(self.fusion, LanguageModelFusion)
        vectors, states = self.fusion(
            report.tokens if own_words else self.text_projection(report.tokens),
            report.present,
            index.expand(num_exams, -1),
            report.present.sum(dim=1),
        )
        return Embeddings(vectors, states)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the log of the inverse temperature in [0, ln 100]; call after each optimizer step."""
        self.log_scale.clamp_(0.0, MAX_LOG_SCALE)


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
