"""The server's own exams: what every round of a federation is measured on."""

from __future__ import annotations

from pathlib import Path

from climb_model.encoders import frozen_encoders
from climb_model.evaluation.labelled import LabelledExams, open_labelled
from climb_model.runs import RunFolder
from climb_model.training.devices import AUTO, parse_devices


def open_central(run: RunFolder, data: Path, weights: Path | None) -> LabelledExams:
    """Read and encode the server's exams of split `evaluation.split` and those that choose thresholds.

    Raises:
        DataError: if no exam can be used or a frozen encoder cannot be loaded.
    """
    settings = run.settings
    frozen = frozen_encoders(settings, weights, parse_devices(AUTO)[0])
    return open_labelled(data, settings, frozen, run.central)
