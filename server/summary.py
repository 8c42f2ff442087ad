"""How a study ends at the server."""

from __future__ import annotations

from pathlib import Path

from climb_model.checkpoints import Checkpoint
from climb_model.ending import write_result
from climb_model.evaluation.labelled import LabelledExams
from climb_model.origin import tell_origin
from climb_model.progress import observer
from climb_model.runs import RunFolder


def finish(
    run: RunFolder, central: LabelledExams, checkpoint: Checkpoint, *, data: Path, engine: str
) -> dict[str, object]:
    """Write the final weights, predictions, the model card and the summary; tell who watches.

    Args:
        data: folder of the server's own exams. If they were drawn, the card and the summary say so.
    """
    summary = write_result(run, checkpoint, central.frozen, central, engine)
    tell_origin(run, summary, data)
    observer().finished(summary)
    return summary
