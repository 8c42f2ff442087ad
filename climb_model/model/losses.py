"""The contrastive objective, with the pairs that reports and patients forbid."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def pair_masks(
    texts: Sequence[Sequence[Hashable]],
    reports: Sequence[Sequence[Hashable]],
    patients: Sequence[Hashable],
    *,
    drawn: bool,
) -> tuple[Bool[Tensor, "exam text"], Bool[Tensor, "exam text"]]:
    """Which image-text pairs of a batch are positives, and which may be compared at all.

    A drawn text is a positive of every exam whose report holds all of its sentences; a whole report is
    one of every exam with the same report (identical normal ones are common). A text is compared with
    no other exam of a patient whom it describes: such a pair is left out, never a negative.

    Args:
        texts: the sentences of each different text.
        reports: all sentences of each exam's report.
        patients: the patient of each exam.
        drawn: whether the texts are some sentences of the reports, not whole reports.

    Returns:
        positive and allowed; row = image, column = text.
    """
    owned = [frozenset(report) for report in reports]
    told = [frozenset(text) for text in texts]
    positive = torch.tensor(
        [[text <= report if drawn else text == report for text in told] for report in owned]
    )
    number = {patient: row for row, patient in enumerate(dict.fromkeys(patients))}
    patient = torch.tensor([number[p] for p in patients])
    same = patient[:, None] == patient[None, :]
    described = (same.float() @ positive.float()) > 0  # the text is a positive of this patient's exam
    return positive, positive | ~described


def contrastive_loss(
    image: Float[Tensor, "exam dim"],
    text: Float[Tensor, "text dim"],
    log_scale: Float[Tensor, ""],
    positive: Bool[Tensor, "exam text"],
    allowed: Bool[Tensor, "exam text"],
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy over the allowed image-text pairs of a batch.

    CLIP's loss (Radford et al. 2021, figure 3) with the target spread evenly over the positives of
    a row, as in supervised contrastive learning (Khosla et al. 2020, eq. 2). With one text for each
    exam and no repeats it is CLIP's.

    Args:
        image: unit-length image embeddings.
        text: unit-length embeddings of the different texts.
        log_scale: natural log of the inverse temperature.
        positive: pairs that belong together; at least one in every row and column.
        allowed: pairs that take part; the others count neither as positive nor as negative.

    Returns:
        Mean of image to text (over exams) and text to image (over texts), in nats.

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
