"""`climb-site evaluate`: trained weights on the site's own labelled exams."""

from __future__ import annotations

from pathlib import Path

from client.folders import TOKENS
from client.train import Say, site_of_run
from client.trained_exams import forgotten_notice
from climb_model.evaluation.evaluate import Evaluation, evaluate, write_evaluation
from climb_model.report.evaluated import write_evaluation_report
from climb_model.runs import RunFolder
from climb_model.trained import SHARED


def evaluate_run(
    run: Path, data: Path, weights: Path | None, *, split: str | None = None, say: Say | None = None
) -> Evaluation:
    """Measure what the site trained by itself; slice tokens that the training kept are used again.

    Args:
        weights: folder of the frozen encoders' model folders; None: the one of the training.
        say: told if exams were forgotten that the weights were trained with.

    Raises:
        RunError: if the folder holds no training of one site alone, or its settings were changed.
        UserError, DataError: as `evaluate`.
    """
    folder = RunFolder.open(run)
    site = site_of_run(folder)
    own = data.resolve() == site.data
    if say is not None and (notice := forgotten_notice(site.private / folder.study)):
        say(f"site '{site.name}': {notice}")
    return evaluate(
        run / SHARED,
        data,
        weights or site.weights,
        split=split,
        name=site.name if own else None,
        scratch=site.private / TOKENS if own else None,
        reports=True,
    )


def write_folder(evaluation: Evaluation, out: Path) -> Path:
    """Write an evaluation with its page into a new folder.

    Returns:
        The page's path.
    """
    write_evaluation(evaluation, out)
    return write_evaluation_report(out)
