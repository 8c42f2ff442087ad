"""What lies behind an update: the facts by which a site's own policy judges it. They never leave the site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from climb_model.prepare import Sentences, joined
from climb_model.training.batches import BatchPlan
from climb_model.training.schedule import learning_rate
from configs.schema import TrainingConfig

_LEAST_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Behind:
    """Counts over the steps of a round that changed the weights.

    A step whose learning rate is less than a hundredth of the round's largest changes next to nothing:
    with it and the exams that only it saw, a round of one real step would pass for more.
    """

    num_exams: int
    """Different exams."""

    num_tokens: int
    """Report tokens of these exams, each exam counted once."""

    num_batch_tokens: int
    """Fewest tokens that a single step was trained on: of its different texts, as they were drawn."""

    num_steps: int


def behind_update(
    plans: Sequence[BatchPlan], reports: Sequence[Sentences], config: TrainingConfig, global_step: int
) -> Behind:
    """The facts of a round.

    Args:
        plans: the round's batches, at least one.
        reports: of the site's exams.
        global_step: the study's step at the start of the round.
    """
    rates = [learning_rate(config, global_step + step) for step in range(len(plans))]
    counted = [
        plan
        for plan, rate in zip(plans, rates, strict=True)
        if rate > 0 and rate >= _LEAST_SHARE * max(rates)
    ]
    if not counted:
        return Behind(num_exams=0, num_tokens=0, num_batch_tokens=0, num_steps=0)
    seen = np.unique(np.concatenate([plan.exams for plan in counted]))
    return Behind(
        num_exams=len(seen),
        num_tokens=sum(len(joined(reports[row])) for row in seen),
        num_batch_tokens=min(sum(len(joined(text)) for text in plan.texts) for plan in counted),
        num_steps=len(counted),
    )
