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

HELLO_NUMBERS: dict[str, type] = {"num-examples": int, "clock": float}
"""The only numbers of the first exchange: training exams, and the site's clock in seconds since 1970."""

HELLO_WORDS: tuple[str, ...] = (
    "site",
    "version",
    "versions",
    "fingerprint",
    "settings",
    "summary",
    "notices",
)
"""The only words of the first exchange: the site's name, the versions of this program and of its libraries,
hashes, and facts in counts."""

BEHIND_UPDATE = "behind-update"
"""Name of the record in Flower's `Context.state`, which never leaves the site, that tells the site's own
egress check what lies behind a training reply."""

BEHIND_NUMBERS: tuple[str, ...] = ("num-exams", "num-tokens", "num-batch-tokens", "num-steps")
"""Its numbers, as `climb_model.training.behind.Behind` counts them."""

PAYLOADS: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
"""`federation.payload` to the type of the tensors in a message."""

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


def check_shared(
    tensors: Mapping[str, Tensor],
    spec: Mapping[str, tuple[int, ...]],
    *,
    sender: str,
    payload: str = "float32",
) -> None:
    """Check that exactly the agreed tensors came, of the agreed type, whole and finite.

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
        if value.dtype != PAYLOADS[payload]:
            raise SharingError(f"{sender} sent '{name}' as {value.dtype}, expected {PAYLOADS[payload]}")
        if not torch.isfinite(value).all():
            raise SharingError(f"{sender} sent '{name}' with values that are not finite")


@torch.no_grad()
def load_shared(
    model: nn.Module, tensors: Mapping[str, Tensor], *, sender: str, payload: str = "float32"
) -> None:
    """Check the shared tensors and copy them into the model."""
    check_shared(tensors, shared_spec(model), sender=sender, payload=payload)
    values = dict(model.named_parameters())
    for name, value in tensors.items():
        values[name].copy_(value)


def outgoing(tensors: Mapping[str, Tensor], payload: str, *, sender: str) -> dict[str, Tensor]:
    """A server's float32 tensors as they travel to the sites: rounded to the nearest of the payload's type.

    Raises:
        SharingError: if a value is too large for it.
    """
    return {name: _rounded(value, payload, f"{sender}: '{name}' has") for name, value in tensors.items()}


def reply_of(
    end: Mapping[str, Tensor], begin: Mapping[str, Tensor], payload: str, *, sender: str
) -> dict[str, Tensor]:
    """A site's float32 tensors after training as they travel to the server.

    In float32 the tensors themselves; in float16 their difference from `begin`, so that a round's rounding
    is relative to what the round changed: each element is off by at most 2^-11 of itself, or 2^-25 if that
    is more.

    Args:
        begin: what came from the server, as it came.

    Raises:
        SharingError: if a difference is too large for the payload's type or not finite.
    """
    if payload == "float32":
        return dict(end)
    return {
        name: _rounded(value - begin[name].to(torch.float32), payload, f"{sender}: '{name}' changed by")
        for name, value in end.items()
    }


def after_reply(start: Tensor, sent: Tensor, payload: str) -> Tensor:
    """A site's tensor in float32, from the server's own that the round began with and the site's reply.

    The difference is added to the server's unrounded tensor, so that what rounding took from it on the way
    out is not lost to the global state.
    """
    return sent if payload == "float32" else start + sent.to(torch.float32)


def _rounded(value: Tensor, payload: str, whose: str) -> Tensor:
    rounded = value.to(PAYLOADS[payload])
    if payload != "float32" and not torch.isfinite(rounded).all():
        most = torch.finfo(PAYLOADS[payload]).max
        raise SharingError(
            f"{whose} values beyond {most:g} or not finite, which {payload} cannot hold; "
            "wanted: federation.payload=float32"
        )
    return rounded
