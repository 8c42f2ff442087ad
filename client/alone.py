"""Rounds of training at one site without a federation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from climb_model.model.climb import ClimbModel
from climb_model.model.text import ReportEncoder
from climb_model.prepare import ExamSet
from climb_model.training.devices import AUTO, parse_devices, train_on
from climb_model.training.trainer import OptimizerState, TrainReport
from configs.schema import Settings

OnStep = Callable[[int, int, int, float], None]
"""(round, step, steps, loss), after each step."""


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where a training stands after a round; round 0: before it."""

    round: int = 0
    global_step: int = 0
    optimizer: OptimizerState | None = field(default=None, repr=False)


def rounds_alone(
    model: ClimbModel,
    exams: ExamSet,
    reports: ReportEncoder,
    settings: Settings,
    *,
    start: Stand,
    devices: str = AUTO,
    on_step: OnStep | None = None,
    scratch: Path | None = None,
) -> Iterator[tuple[TrainReport, Stand]]:
    """Train in place the rounds that are left of `federation.num_rounds`, one each time it is asked.

    The same steps in the same order as of a site whose federation has no other site.

    Args:
        devices: `auto`, `cpu` or such as `cuda:0,cuda:1`.
        scratch: private folder where several processes exchange weights.

    Raises:
        DeviceError: if this machine does not have them.
        TrainingError, DataError: as `train_on`.
    """
    stand, found = start, parse_devices(devices)
    while stand.round < settings.federation.num_rounds:
        number = stand.round + 1
        report, optimizer = train_on(
            found,
            model,
            None if settings.federation.reset_optimizer else stand.optimizer,
            exams,
            reports,
            settings,
            round=number,
            global_step=stand.global_step,
            on_step=None if on_step is None else partial(on_step, number),
            scratch=scratch,
        )
        stand = Stand(round=number, global_step=stand.global_step + report.num_steps, optimizer=optimizer)
        yield report, stand
