"""The learning rate as a function of the study's global step."""

from __future__ import annotations

from configs.schema import TrainingConfig


def learning_rate(config: TrainingConfig, global_step: int) -> float:
    """Linear warm-up, then constant. The step count runs on across rounds.

    Args:
        global_step: optimizer steps of the study before this one, from 0.
    """
    if global_step >= config.warmup_steps:
        return config.learning_rate
    share = global_step / config.warmup_steps
    return config.warmup_from + share * (config.learning_rate - config.warmup_from)
