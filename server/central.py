"""Zero-shot diagnosis on the server's own exams, round by round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from climb_model.encoders import frozen_encoders
from climb_model.evaluation.statistics import AucRow, auc_table, mean_auc, mean_auc_interval
from climb_model.evaluation.zero_shot import ZeroShot, zero_shot
from climb_model.model.climb import ClimbModel
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import ExamSet, prepare, read_exams
from climb_model.progress import observer
from climb_model.runs import RunFolder
from configs.schema import Settings


@dataclass(frozen=True)
class Central:
    """The server's exams, ready, and the encoders that every site must share."""

    settings: Settings
    frozen: FrozenEncoders
    exams: ExamSet

    def predict(self, model: ClimbModel) -> ZeroShot:
        """Scores of all exams."""
        return zero_shot(model, self.exams, self.frozen.text, self.settings)

    def aucs(self, model: ClimbModel) -> tuple[float | None, dict[str, float | None]]:
        """Mean AUC over the defined findings, and each finding's AUC; without intervals."""
        rows, _ = self._table(self.predict(model), draws=0)
        return mean_auc(rows)[0], {row.finding: row.auc for row in rows}

    def summary(self, found: ZeroShot) -> dict[str, object]:
        """The part of `summary.json` on the result: the AUC table with 95 % intervals over patients."""
        rows, interval = self._table(found, draws=self.settings.evaluation.bootstrap)
        return {
            "central_exams": self.exams.num_exams,
            "central_notices": list(self.exams.notices),
            "mean_auc": mean_auc(rows)[0],
            "mean_auc_ci_low": interval[0],
            "mean_auc_ci_high": interval[1],
            "auc_table": {
                row.finding: {
                    "auc": row.auc,
                    "ci_low": row.ci_low,
                    "ci_high": row.ci_high,
                    "positives": row.positives,
                    "negatives": row.negatives,
                }
                for row in rows
            },
        }

    def _table(
        self, found: ZeroShot, *, draws: int
    ) -> tuple[tuple[AucRow, ...], tuple[float | None, float | None]]:
        seed = self.settings.seed
        rows = auc_table(found.scores, found.labels, found.patients, found.findings, draws=draws, seed=seed)
        return rows, mean_auc_interval(found.scores, found.labels, found.patients, draws=draws, seed=seed)


def open_central(run: RunFolder, data: Path, weights: Path | None) -> Central:
    """Read and encode the server's exams of split `evaluation.split`; reports are never opened.

    Raises:
        DataError: if no exam can be used or a frozen encoder cannot be loaded.
    """
    settings = run.settings
    frozen = frozen_encoders(settings, weights)
    site = read_exams(data, settings, need_reports=False, need_findings=True)
    watcher = observer()
    exams = prepare(
        site,
        settings.evaluation.split,
        frozen,
        settings,
        run.central,
        on_exam=lambda done, total: watcher.preparing(site.name, done, total),
    )
    return Central(settings, frozen, exams)
