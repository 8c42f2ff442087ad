"""What is counted behind an update, and what is not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from climb_model.training.batches import BatchPlan
from climb_model.training.behind import Behind, behind_update
from configs.load import load_settings

REPORTS = (((1, 2, 3), (4,)), ((5, 6),), ((7, 8, 9, 10, 11),), ((1, 2, 3), (4,)))


def plan(*exams: int) -> BatchPlan:
    """A batch of these exams' whole reports."""
    texts = tuple(dict.fromkeys(REPORTS[exam] for exam in exams))
    return BatchPlan(np.array(exams), np.zeros(len(exams), np.int64), texts)


def behind(*plans: BatchPlan, global_step: int = 10, **training: float) -> Behind:
    config = dataclasses.replace(load_settings("climb").training, **training)  # type: ignore[arg-type]
    return behind_update(plans, REPORTS, config, global_step)


def test_exams_and_their_tokens_count_once_and_each_text_of_a_batch_once() -> None:
    assert behind(plan(0, 1), plan(0, 1), plan(0, 3)) == Behind(
        num_exams=3, num_tokens=4 + 2 + 4, num_batch_tokens=4, num_steps=3
    )


def test_drawn_sentences_are_counted_as_they_were_drawn() -> None:
    drawn = BatchPlan(np.array([0, 2]), np.zeros(2, np.int64), (((4,),), REPORTS[2]))
    assert behind(drawn) == Behind(num_exams=2, num_tokens=9, num_batch_tokens=6, num_steps=1)


@pytest.mark.parametrize(
    ("rates", "global_step"),
    [
        ({"warmup_from": 0.0, "warmup_steps": 10**9, "learning_rate": 1000.0}, 0),
        ({"warmup_from": 1e-30, "warmup_steps": 1, "learning_rate": 1e-3}, 0),
        ({"warmup_from": 9e-6, "warmup_steps": 1, "learning_rate": 1e-3}, 0),
    ],
)
def test_a_step_that_changes_next_to_nothing_does_not_count(
    rates: dict[str, float], global_step: int
) -> None:
    found = behind(plan(0, 2), plan(1, 3), global_step=global_step, **rates)
    assert found == Behind(num_exams=2, num_tokens=6, num_batch_tokens=6, num_steps=1)


def test_the_steps_of_an_ordinary_warm_up_count() -> None:
    assert behind(plan(0, 1), plan(2, 3), global_step=0).num_steps == 2


def test_a_round_without_a_step_that_counts_has_nothing_behind_it() -> None:
    found = behind(plan(0, 1), global_step=0, warmup_from=0.0)
    assert found == Behind(num_exams=0, num_tokens=0, num_batch_tokens=0, num_steps=0)
