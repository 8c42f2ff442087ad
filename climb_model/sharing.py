"""The one list of what leaves a hospital: tensors by name and shape, numbers and words by key."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from configs.errors import UserError

SHARED_PARTS: tuple[str, ...] = (
    "fusion.",
    "slice_positions.",
    "text_projection.",
    "log_scale",
    "image_head.",
    "start_token",
)
"""Beginnings of the names of shared parameters. A parameter that matches none stays at the site.

The last two exist only where the shared transformer is the generator too (preset `climb-code`).
"""

PRIVATE_PARTS: tuple[str, ...] = ("report_generator.", "slice_generator.")
"""Beginnings of the names of the parameters that stay at the site, for whoever audits the lists: they can
learn reports by heart. Whatever is in neither list stays too."""

TRAIN_METRICS: dict[str, type] = {"num-examples": int, "num-steps": int, "loss": float, "seconds": float}
"""The only numbers of a training reply."""

HELLO_NUMBERS: dict[str, type] = {"num-examples": int}
"""The only numbers of the first exchange: training exams."""

HELLO_WORDS: tuple[str, ...] = ("site", "fingerprint", "settings", "notices")
"""The only words of the first exchange: the site's name, hashes, and facts in counts."""

REFUSAL = "refused"
"""The key under which a site that cannot take part says why, in one line without identifiers."""

REFUSAL_WORDS: tuple[str, ...] = ("site", REFUSAL)
"""The only words of a refusal: the site's name and the line."""


class SharingError(UserError):
    """Tensors that are not what was agreed; one line naming sender, tensor, wanted and got."""


def is_shared(name: str) -> bool:
    """Whether a model parameter of this name travels."""
    return name.startswith(SHARED_PARTS)


def shared_spec(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name to shape of each shared tensor, sorted by name. All are float32."""
    named = sorted(model.named_parameters(), key=lambda item: item[0])
    return {name: tuple(value.shape) for name, value in named if is_shared(name)}


def shared_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the shared tensors on the CPU in float32, sorted by name."""
    values = dict(model.named_parameters())
    return {name: values[name].detach().to("cpu", torch.float32, copy=True) for name in shared_spec(model)}


def private_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trainable tensors that stay at the site."""
    return {
        name: value.detach().to("cpu", copy=True)
        for name, value in model.named_parameters()
        if not is_shared(name)
    }


def check_shared(tensors: Mapping[str, Tensor], spec: Mapping[str, tuple[int, ...]], *, sender: str) -> None:
    """Check that exactly the agreed tensors came, whole and finite.

    Raises:
        SharingError: on a missing or further name, another shape or type, NaN or infinity.
    """
    for name in spec:
        if name not in tensors:
            raise SharingError(f"{sender} did not send '{name}', which is shared")
    for name, value in tensors.items():
        if name not in spec:
            raise SharingError(f"{sender} sent '{name}', which is not shared")
        if tuple(value.shape) != tuple(spec[name]):
            raise SharingError(
                f"{sender} sent '{name}' with shape {tuple(value.shape)}, expected {tuple(spec[name])}"
            )
        if value.dtype != torch.float32:
            raise SharingError(f"{sender} sent '{name}' as {value.dtype}, expected torch.float32")
        if not torch.isfinite(value).all():
            raise SharingError(f"{sender} sent '{name}' with values that are not finite")


@torch.no_grad()
def load_shared(model: nn.Module, tensors: Mapping[str, Tensor], *, sender: str) -> None:
    """Check the shared tensors and copy them into the model."""
    check_shared(tensors, shared_spec(model), sender=sender)
    values = dict(model.named_parameters())
    for name, value in tensors.items():
        values[name].copy_(value)
