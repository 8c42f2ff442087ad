"""One study as a PACS exports it: its files under meaningless names, with what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from climb_model.data.exam import ExamRecord
from climb_model.data.synthetic_dicom.clutter import clutter_series, document, other_modality, screenshot
from climb_model.data.synthetic_dicom.encode import make_uid
from climb_model.data.synthetic_dicom.habits import Habit
from climb_model.data.synthetic_dicom.images import (
    Instance,
    Phase,
    SeriesPlan,
    classic_files,
    enhanced_file,
    study_tags,
)
from climb_model.data.synthetic_dicom.persons import Person
from climb_model.data.synthetic_dicom.volumes import Grid, half_width_mm, join_breasts, phases, t2_on, turned

Kind = Literal["drawn", "prior", "missing slice", "truncated file", "no post", "other modality"]
EXPECTED: Mapping[str, str] = {"drawn": "imported", "prior": "imported"}
"""Kind of a study to its outcome; of the others, the kind itself is the reason why it is left out."""

_PHASE_SECONDS = 75
_PIXEL_DATA = bytes.fromhex("e07f10004f")
"""Begin of the element: its tag and the O of its type."""


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Everything a worker needs to write one study."""

    folder: Path
    """Of the hospital."""

    place: str
    """The study's own folder below `dicom/`."""

    habit: Habit
    kind: Kind
    person: Person
    breasts: Mapping[str, ExamRecord] = field(repr=False)
    """`left` and `right`: the drawn exams whose voxels these are."""

    accession: str
    """Empty where the archive has none."""

    uid: str
    when: datetime
    age_days: int
    report: bool
    """Whether the report table has a row for it."""

    mess: tuple[str, ...]
    """Of this study, beside its kind: `name in a description`, `duplicate files`."""

    seed: tuple[int, ...]


def write_study(plan: StudyPlan) -> dict[str, object]:
    """Write the files of one study; returns its entry of `truth.json`."""
    rng = np.random.default_rng(plan.seed)
    table_mm = tuple(float(step) / 4 for step in rng.integers((-16, -160, -80), (17, 81, 81)))
    right, left = (_sequences(plan.breasts[side]) for side in ("right", "left"))
    joined = join_breasts(right, left, (table_mm[0], table_mm[1], table_mm[2]))
    if plan.kind != "drawn":  # another examination of the same breasts
        joined = {name: _noisy(grid, rng) for name, grid in joined.items()}
    pre, sub = joined["Pre"], joined["Sub"]
    study = study_tags(
        plan.person,
        plan.habit,
        uid=plan.uid,
        accession=plan.accession,
        when=plan.when,
        age_days=plan.age_days,
    )
    if plan.kind == "other modality":
        modality = "CT" if rng.random() < 0.5 else "MG"
        files = other_modality(study, pre, plan.habit, plan.when, modality)
    else:
        files = _series_files(plan, study, pre, sub, joined.get("T2"), rng)
        files += _without_pixels(study, rng)
    num_duplicates = _write(plan, files, rng)
    return {
        "accession": plan.accession,
        "patient": plan.person.number,
        "study_uid": plan.uid,
        "date": f"{plan.when:%Y%m%d}",
        "kind": plan.kind,
        "expected": EXPECTED.get(plan.kind, plan.kind),
        "report": plan.report,
        "mess": list(plan.mess),
        "exams": {side: exam.uid for side, exam in plan.breasts.items()},
        "split": plan.breasts["left"].split,
        "age_days": plan.age_days,
        "phases": 1 if plan.kind == "no post" else plan.habit.num_posts + 1,
        "t2": "none" if "T2" not in joined else "interpolated" if _interpolated(plan.habit) else "exact",
        "shift_mm": _shifts(table_mm, half_width_mm(pre)),
        "series": sorted({file.series for file in files}),
        "num_files": len(files),
        "num_duplicates": num_duplicates,
        "planted": [*plan.person.planted(), *filter(None, [plan.accession]), plan.uid],
    }


def _noisy(grid: Grid, rng: np.random.Generator) -> Grid:
    return Grid(grid.voxels + rng.integers(-2, 3, grid.voxels.shape), grid.affine)


def _sequences(exam: ExamRecord) -> dict[str, Path]:
    return {name: exam.files[name] for name in ("Pre", "Sub", "T2") if name in exam.files}


def _interpolated(habit: Habit) -> bool:
    return habit.t2_grid in ("finer", "coarser")


def _shifts(table_mm: tuple[float, ...], half_mm: float) -> dict[str, list[float]]:
    """What to add to a drawn breast's place, RAS+ mm, to get its place in the exported exam."""
    left, back, head = table_mm
    return {"right": [half_mm - left, -back, head], "left": [-half_mm - left, -back, head]}


def _series_files(
    plan: StudyPlan, study: Dataset, pre: Grid, sub: Grid, t2: Grid | None, rng: np.random.Generator
) -> list[Instance]:
    habit = plan.habit
    grids = phases(pre, sub, habit.num_posts, rng)[: 1 if plan.kind == "no post" else None]
    plans = _dynamic(plan, grids)
    if t2 is not None:
        begin = Phase(grid=t2_on(t2, habit.t2_grid), acquired=plan.when + timedelta(minutes=2))
        plans.append(SeriesPlan(name="t2", number=4, description=habit.t2_name, phases=(begin,)))
    plans += clutter_series(pre, sub, habit, plan.when, rng.random(3))
    files: list[Instance] = []
    for one in plans:
        whole = habit.dynamic == "multi-frame" and one.name == "dynamic"
        write = enhanced_file if whole else classic_files
        files += write(_dressed(one, plan), study, habit, make_uid(plan.uid, one.number))
    if plan.kind == "truncated file":
        files = _cut(files)
    return files


def _dynamic(plan: StudyPlan, grids: list[Grid]) -> list[SeriesPlan]:
    """The dynamic phases, in one series or in one each."""
    habit, apart = plan.habit, plan.habit.dynamic == "a series each"
    told = habit.told_by == "temporal position"
    begin = plan.when + timedelta(minutes=6)
    lost = (0, _lost_slice(plan, grids[0])) if plan.kind == "missing slice" else None
    taken = [
        Phase(
            grid=grid,
            # where the temporal position tells the phases apart, the whole series has one time
            acquired=begin if told else begin + timedelta(seconds=_PHASE_SECONDS * number),
            temporal_position=number + 1 if told else None,
        )
        for number, grid in enumerate(grids)
    ]
    if not apart:
        return [
            SeriesPlan(
                name="dynamic",
                number=7,
                description=habit.names[0],
                phases=tuple(taken),
                contrast=len(taken) > 1,
                omit=lost,
            )
        ]
    return [
        SeriesPlan(
            name="dynamic",
            number=7 + number,
            description=habit.names[min(number, len(habit.names) - 1)].format(n=number),
            phases=(phase,),
            contrast=number > 0,
            omit=lost if number == 0 else None,
        )
        for number, phase in enumerate(taken)
    ]


def _lost_slice(plan: StudyPlan, grid: Grid) -> int:
    """The first, the middle or the last slice, by the study."""
    last = grid.voxels.shape[2] - 1
    return (0, last // 2 + 1, last)[sum(plan.seed) % 3]


def _dressed(series: SeriesPlan, plan: StudyPlan) -> SeriesPlan:
    """The series as the hospital shows it: turned by 180 degrees, the patient in its description."""
    found = series
    if plan.habit.prone and series.name != "scout":
        shown = tuple(replace(one, grid=turned(one.grid, (0, 1, 2), (-1, -1, 1))) for one in series.phases)
        found = replace(found, phases=shown)
    if "name in a description" in plan.mess:
        found = replace(found, description=f"{series.description} {plan.person.surname}")
    return found


def _without_pixels(study: Dataset, rng: np.random.Generator) -> list[Instance]:
    files: list[Instance] = []
    if rng.random() < 0.3:
        files.append(screenshot(study, rng))
    if rng.random() < 0.5:
        files.append(document(study, ("SR", "KO", "PR")[int(rng.integers(3))]))
    return files


def _cut(files: list[Instance]) -> list[Instance]:
    """The same files, one of the dynamic series short of half its pixels."""
    dynamic = [place for place, file in enumerate(files) if file.series == "dynamic"]
    place = dynamic[len(dynamic) // 2]
    file = files[place]
    start = file.content.index(_PIXEL_DATA)
    content = file.content[: (start + len(file.content)) // 2]
    return [
        *files[:place],
        Instance(content, file.series, file.uid, file.phase, file.position),
        *files[place + 1 :],
    ]


def _write(plan: StudyPlan, files: list[Instance], rng: np.random.Generator) -> int:
    """Write the files under shuffled names; returns how many were written a second time."""
    again = (
        [files[place] for place in rng.permutation(len(files))[:3]] if "duplicate files" in plan.mess else []
    )
    copies = [*files, *again]
    order = rng.permutation(len(copies))
    base = plan.folder / "dicom" / plan.place
    for number, place in enumerate(order):
        file = copies[place]
        if plan.habit.folders == "dates":
            path = base / (f"IM_{number:05d}" if number % 2 else f"MR.{file.uid}.{number}.dcm")
        else:
            path = base / f"{int(place) % 3:03d}" / f"{rng.integers(2**32):08X}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    return len(again)
