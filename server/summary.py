"""How a study ends at the server."""

from __future__ import annotations

from climb_model.checkpoints import Checkpoint
from climb_model.ending import write_result
from climb_model.evaluation.labelled import LabelledExams
from climb_model.progress import observer
from climb_model.runs import RunFolder


def finish(run: RunFolder, central: LabelledExams, checkpoint: Checkpoint, engine: str) -> dict[str, object]:
    """Write the final weights, predictions, the model card and, last, the summary; tell who watches."""
    summary = write_result(run, checkpoint, central.frozen, central, engine)
    observer().finished(summary)
    return summary
