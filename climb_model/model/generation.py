"""What writes: a report from an image, slice tokens from a report; always teacher-forced here."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from climb_model.model.fusion import Fusion
from climb_model.model.layers import make_layers, run_layers
from configs.schema import FusionConfig


class ReportGenerator(nn.Module):
    """Causal decoder that reads the fused image: CoCa's multimodal half (Yu et al. 2022, section 3.2).

    It has weights of its own and stays at the site: it is the part that can learn reports by heart.
    """

    def __init__(self, config: FusionConfig, depth: int, text_width: int) -> None:
        super().__init__()
        self.config = config
        self.start = nn.Parameter(torch.empty(config.width).normal_())
        self.embed = nn.Linear(text_width, config.width, bias=False)
        self.layers = make_layers(config, causal=True, depth=depth, cross_attend=True)
        self.head = nn.Linear(config.width, text_width, bias=False)

    def forward(
        self,
        image: Float[Tensor, "exam state dim"],
        image_present: Bool[Tensor, "exam state"],
        tokens: Float[Tensor, "exam token text_dim"],
        present: Bool[Tensor, "exam token"],
    ) -> Float[Tensor, "exam token+1 text_dim"]:
        """Predict each token from those before it and the image; row i predicts token i, the last the end.

        Args:
            image: fused states of the image.
            image_present: True where a state may be attended to.
            tokens: frozen vectors of the report, padded at the end.
            present: True where a token is real.
        """
        num_exams, num_tokens, _ = tokens.shape
        embedded = self.embed(tokens)
        start = self.start.to(embedded.dtype).expand(num_exams, 1, -1)
        states = run_layers(
            self.layers,
            self.config,
            torch.cat([start, embedded.masked_fill(~present[..., None], 0.0)], dim=1),
            torch.cat([present.new_ones(num_exams, 1), present], dim=1),
            torch.arange(num_tokens + 1, device=tokens.device).expand(num_exams, -1),
            context=image,
            context_present=image_present,
        )
        return self.head(states)


class SliceGenerator(nn.Module):
    """Causal decoder that predicts an exam's slice tokens, one by one, from the fused report.

    Private to the site like `ReportGenerator`. An absent slice is a zero that the later ones see: what
    follows a gap must still be asked for.
    """

    def __init__(self, config: FusionConfig, depth: int) -> None:
        super().__init__()
        self.config = config
        self.start = nn.Parameter(torch.empty(config.width).normal_())
        self.layers = make_layers(config, causal=True, depth=depth, cross_attend=True)
        self.head = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self,
        report: Float[Tensor, "exam state dim"],
        report_present: Bool[Tensor, "exam state"],
        tokens: Float[Tensor, "exam slice_token dim"],
        present: Bool[Tensor, "exam slice_token"],
        positions: Float[Tensor, "slice_token dim"],
    ) -> Float[Tensor, "exam slice_token dim"]:
        """Predict each slice token from those before it and the report.

        Args:
            report: fused states of the report.
            report_present: True where a state may be attended to.
            tokens: slice tokens.
            present: True where a slice is present.
            positions: of the slice that each row predicts; the one before may be absent.
        """
        num_exams, num_tokens, _ = tokens.shape
        start = self.start.to(tokens.dtype).expand(num_exams, 1, -1)
        before = torch.cat([start, tokens.masked_fill(~present[..., None], 0.0)[:, :-1]], dim=1)
        states = run_layers(
            self.layers,
            self.config,
            before + positions,
            torch.ones_like(present),
            torch.arange(num_tokens, device=tokens.device).expand(num_exams, -1),
            context=report,
            context_present=report_present,
        )
        return self.head(states)


def reused_report(
    fusion: Fusion,
    image: Float[Tensor, "exam state dim"],
    image_present: Bool[Tensor, "exam state"],
    report: Float[Tensor, "exam token dim"],
    present: Bool[Tensor, "exam token"],
) -> Float[Tensor, "exam token+1 dim"]:
    """The report from the image by the causal fusion itself, run again over `[h_v; h_t]`.

    Row i predicts token i from the image's and the report's fused states before it. The image's own
    positions go on into the report's.
    """
    num_exams, num_states, _ = image.shape
    present_all = torch.cat([image_present, present], dim=1)
    index = torch.arange(present_all.shape[1], device=image.device).expand(num_exams, -1)
    states = fusion.encode(torch.cat([image, report], dim=1), present_all, index)
    places = torch.arange(num_states, device=image.device)
    last = places.expand(num_exams, -1).masked_fill(~image_present, 0).amax(dim=1)
    first = states[torch.arange(num_exams, device=image.device), last]  # the last present slice asks for it
    return torch.cat([first[:, None], states[:, num_states:]], dim=1)


def reused_slices(
    fusion: Fusion,
    start_token: Float[Tensor, " dim"],
    report: Float[Tensor, "exam token dim"],
    report_present: Bool[Tensor, "exam token"],
    image: Float[Tensor, "exam slice_token dim"],
    present: Bool[Tensor, "exam slice_token"],
) -> Float[Tensor, "exam slice_token dim"]:
    """The slices from the report by the causal fusion itself, run again over `[h_t; start; h_v[:-1]]`.

    Row i predicts slice i; an absent slice is a zero that the later ones see. Positions count the report's
    real tokens only, so padding changes nothing.
    """
    num_exams, num_tokens, _ = report.shape
    num_slices = image.shape[1]
    start = start_token.to(image.dtype).expand(num_exams, 1, -1)
    text_index = torch.arange(num_tokens, device=image.device).expand(num_exams, -1)
    slice_index = report_present.sum(dim=1)[:, None] + torch.arange(num_slices, device=image.device)
    seen = image.masked_fill(~present[..., None], 0.0)[:, :-1]
    states = fusion.encode(
        torch.cat([report, start, seen], dim=1),
        torch.cat([report_present, torch.ones_like(present)], dim=1),
        torch.cat([text_index, slice_index], dim=1),
    )
    return states[:, num_tokens:]
