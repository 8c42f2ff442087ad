"""The contrastive objective, with the pairs that reports and patients forbid."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def pair_masks(
    texts: Sequence[Hashable], patients: Sequence[Hashable]
) -> tuple[Bool[Tensor, "exam exam"], Bool[Tensor, "exam exam"]]:
    """Which image-report pairs of a batch are positives, and which may be compared at all.

    Same text: positives of each other (identical normal reports are common). Same patient with
    another text: left out, never a negative.

    Returns:
        positive and allowed, both symmetric; the diagonal is True in both.
    """
    text_number = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    patient_number = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    text = torch.tensor([text_number[t] for t in texts])
    patient = torch.tensor([patient_number[p] for p in patients])
    positive = text[:, None] == text[None, :]
    allowed = positive | (patient[:, None] != patient[None, :])
    return positive, allowed


def contrastive_loss(
    image: Float[Tensor, "exam dim"],
    text: Float[Tensor, "exam dim"],
    log_scale: Float[Tensor, ""],
    positive: Bool[Tensor, "exam exam"],
    allowed: Bool[Tensor, "exam exam"],
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy over the allowed image-report pairs of a batch.

    CLIP's loss (Radford et al. 2021, figure 3) with the target spread evenly over the positives of
    a row, as in supervised contrastive learning (Khosla et al. 2020, eq. 2). Row i of both
    embeddings is exam i.

    Args:
        image: unit-length image embeddings.
        text: unit-length report embeddings.
        log_scale: natural log of the inverse temperature.
        positive: pairs that belong together; True on the diagonal.
        allowed: pairs that take part; the others count neither as positive nor as negative.

    Returns:
        Mean over exams and both directions, in nats.

    Raises:
        ValueError: with fewer than 2 exams, where the loss is 0 whatever the weights.
    """
    if len(image) < 2:
        raise ValueError(f"contrastive loss needs >= 2 exams in a batch, got {len(image)}")
    logits = log_scale.exp() * image @ text.T
    logits = logits.masked_fill(~allowed, float("-inf"))
    target = positive.to(logits.dtype)
    target = target / target.sum(dim=1, keepdim=True)  # both masks are symmetric: rows serve both directions
    losses = [
        -(target * torch.log_softmax(rows, dim=1).masked_fill(~positive, 0.0)).sum(dim=1).mean()
        for rows in (logits, logits.T)
    ]
    return (losses[0] + losses[1]) / 2
