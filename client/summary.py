"""A site's exams in counts: all that the coordinator is told of them before training."""

from __future__ import annotations

from climb_model.data.exam import SPLITS, SiteData
from climb_model.prepare import ExamSet
from configs.schema import Settings


def data_summary(data: SiteData, exams: ExamSet, settings: Settings) -> dict[str, object]:
    """Exams and patients of each split, training exams that lack a sequence, exams left out.

    Args:
        data: the site's tables.
        exams: what of split `train` can be used.
    """
    splits = {split: _size([exam.patient for exam in data.of_split(split)]) for split in SPLITS}
    present = exams.kept.present[exams.rows]
    there = present.reshape(len(present), len(settings.data.sequences), -1).any(axis=-1)
    lacking = (~there).sum(axis=0)
    return {
        "splits": {**splits, "train": _size(exams.patients)},
        "lacking": {name: int(lacking[place]) for place, name in enumerate(settings.data.sequences)},
        "left_out": len(exams.left_out),
    }


def _size(patients: tuple[str, ...] | list[str]) -> dict[str, int]:
    return {"exams": len(patients), "patients": len(set(patients))}
