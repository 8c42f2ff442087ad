"""One site's training: what its rounds record, what they keep, and how they go on from it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from client.alone import Stand
from client.site import Site
from client.state import PrivateState, StateError, load_private, save_state, state_before
from client.trained_exams import record_exams
from climb_model.checkpoints import Checkpoint, save_checkpoint
from climb_model.evaluation.labelled import LabelledExams
from climb_model.model.climb import ClimbModel
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import ExamSet
from climb_model.runs import RoundRecord, RunError, RunFolder, SiteRound
from climb_model.sharing import load_shared, private_state, shared_state
from climb_model.training.trainer import TrainReport
from configs.load import settings_hash


@dataclass(frozen=True)
class Training:
    """One site's training: its place, its exams, and what its rounds are measured on."""

    run: RunFolder
    site: Site
    frozen: FrozenEncoders
    exams: ExamSet
    labelled: LabelledExams | None
    notices: tuple[str, ...]

    def record(
        self, model: ClimbModel, stand: Stand, begin: float, report: TrainReport | None
    ) -> RoundRecord:
        """The history's line of a round, measured now."""
        mean, aucs = None, dict[str, float | None].fromkeys(self.run.settings.evaluation.findings)
        if self.labelled is not None:
            mean, aucs = self.labelled.aucs(model)
        return RoundRecord(
            round=stand.round,
            seconds=time.monotonic() - begin,
            global_step=stand.global_step,
            sites={} if report is None else {self.site.name: _site_round(report)},
            mean_auc=mean,
            auc=aucs,
        )

    def save(self, model: ClimbModel, stand: Stand, history: tuple[RoundRecord, ...]) -> Checkpoint:
        """Private state first, then the checkpoint that needs it, then what can be made again from it."""
        digest = settings_hash(self.run.settings)
        if stand.optimizer is not None:
            state = PrivateState(stand.round, self.run.number, digest, stand.optimizer, private_state(model))
            record_exams(self.site.private / self.run.study, self.exams, stand.round)
            save_state(self.site.private / self.run.study, state)
        checkpoint = Checkpoint(
            study=self.run.study,
            settings=digest,
            round=stand.round,
            global_step=stand.global_step,
            exams={self.site.name: self.exams.num_exams},
            notices={self.site.name: self.notices},
            history=history,
            shared=shared_state(model),
        )
        save_checkpoint(self.run.checkpoints, checkpoint)
        self.run.write_history(history)
        return checkpoint

    def restore(self, model: ClimbModel, checkpoint: Checkpoint) -> Stand:
        """Put a checkpoint's weights and the private state of its round into the model.

        Raises:
            RunError: if the checkpoint is of another run.
            StateError: if the private state is damaged or missing.
        """
        digest, private = settings_hash(self.run.settings), self.site.private / self.run.study
        if (checkpoint.study, checkpoint.settings) != (self.run.study, digest):
            raise RunError(
                f"the checkpoint is of study '{checkpoint.study}' with settings {checkpoint.settings}, "
                f"the run folder of '{self.run.study}' with {digest}"
            )
        load_shared(model, checkpoint.shared, sender="the last checkpoint")
        kept = state_before(private, checkpoint.round + 1, self.run.number, digest)
        if not checkpoint.round:
            return Stand()
        if kept is None or kept.round != checkpoint.round:
            raise StateError(
                f"{private} lacks the private state of round {checkpoint.round}, from which the training "
                "would go on: start a new run with --out"
            )
        load_private(model, kept.private)
        return Stand(round=checkpoint.round, global_step=checkpoint.global_step, optimizer=kept.optimizer)


def _site_round(report: TrainReport) -> SiteRound:
    return SiteRound(
        exams=report.num_exams,
        steps=report.num_steps,
        loss=float(report.loss),
        seconds=float(report.seconds),
        bytes_up=0,
        bytes_down=0,
    )
