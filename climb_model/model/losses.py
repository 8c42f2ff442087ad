"""The contrastive objective, with the pairs that reports and patients forbid."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def pair_masks(
    texts: Sequence[Sequence[Hashable]], reports: Sequence[Sequence[Hashable]], patients: Sequence[Hashable]
) -> tuple[Bool[Tensor, "exam exam"], Bool[Tensor, "exam exam"]]:
    """Which image-text pairs of a batch are positives, and which may be compared at all.

    A text is a positive of every exam whose report holds all of its sentences: the same whole report
    (identical normal ones are common), or the same drawn sentences. Another text of the same patient
    is left out, never a negative.

    Args:
        texts: the sentences drawn for each exam; all of its report's, if reports are not drawn from.
        reports: all sentences of each exam's report.
        patients: the patient of each exam.

    Returns:
        positive and allowed; row = image, column = text. The diagonal is True in both.
    """
    owned = [frozenset(report) for report in reports]
    drawn = [frozenset(text) for text in texts]
    whole = all(text == report for text, report in zip(drawn, owned, strict=True))
    positive = torch.tensor(
        [[text == report if whole else text <= report for text in drawn] for report in owned]
    )
    number = {patient: row for row, patient in enumerate(dict.fromkeys(patients))}
    patient = torch.tensor([number[p] for p in patients])
    return positive, positive | (patient[:, None] != patient[None, :])


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
    losses = [
        -(torch.log_softmax(rows, dim=1).masked_fill(~target, 0.0).sum(dim=1) / target.sum(dim=1)).mean()
        for rows, target in ((logits, positive), (logits.T, positive.T))
    ]
    return (losses[0] + losses[1]) / 2
