"""What a hospital's radiology system exports: its report table, and the mapping that explains it."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import yaml
from openpyxl import Workbook

from climb_model.data.exam import ExamRecord
from climb_model.data.synthetic_dicom.habits import Habit
from climb_model.data.synthetic_dicom.study import StudyPlan

_ACCESSION, _PATIENT, _NAME, _DATE = "AnforderungsNr", "PatNr", "Patientin", "Untersuchungsdatum"
_SPLIT, _SIDE, _TEXT, _LESION = "Gruppe", "Seite", "Befund", "Klasse"
_RIGHT, _LEFT = "Rechte Mamma", "Linke Mamma"
_ZIP_DATE = (2020, 1, 1, 0, 0, 0)

_BOTH = (
    "Technik: MRT beider Mammae in Bauchlage.\nRechte Mamma: {right}\nLinke Mamma: {left}",
    "Rechts: {right}\nLinks: {left}",
    "MRT der Mammae beidseits.\n\nLinke Mamma:\n{left}\n\nRechte Mamma:\n{right}",
)


def write_tables(folder: Path, studies: Sequence[StudyPlan], habit: Habit, rng: np.random.Generator) -> None:
    """`reports.csv` or `.xlsx`, and `mapping.yaml`, of one hospital."""
    head = [_ACCESSION, _PATIENT, _NAME, _DATE, _SPLIT]
    by_side = [f"{_LESION} rechts", f"{_LESION} links"]
    head += {
        "columns": [_RIGHT, _LEFT, *by_side],
        "rows": [_SIDE, _TEXT, _LESION],
        "one text": [_TEXT, *by_side],
    }[habit.reports]
    rows = [row for study in studies if study.report for row in _rows(study, habit, rng)]
    rows = [rows[place] for place in rng.permutation(len(rows))]
    if habit.excel:
        (folder / "reports.xlsx").write_bytes(_workbook([head, *rows]))
    else:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=";" if habit.encoding == "cp1252" else ",").writerows([head, *rows])
        (folder / "reports.csv").write_bytes(text.getvalue().encode(habit.encoding))
    mapping = {"series": dict(habit.series)} if habit.series else {}
    (folder / "mapping.yaml").write_text(
        yaml.safe_dump(mapping | {"reports": _mapping(habit)}, allow_unicode=True, sort_keys=False),
        encoding="utf-8",
    )


def _mapping(habit: Habit) -> dict[str, object]:
    joined: dict[str, object] = {"accession": _ACCESSION}
    if habit.joined_by == "patient":
        joined = {"patient": _PATIENT, "date": _DATE}
    sides: dict[str, object] = {"lesion_right": f"{_LESION} rechts", "lesion_left": f"{_LESION} links"}
    texts = {
        "columns": {"right": _RIGHT, "left": _LEFT} | sides,
        "rows": {"text": _TEXT, "side": _SIDE, "lesion": _LESION},
        "one text": {"text": _TEXT} | sides,
    }[habit.reports]
    encoding = {} if habit.excel else {"encoding": habit.encoding}
    return joined | texts | {"names": [_NAME], "split": _SPLIT} | encoding


def _rows(study: StudyPlan, habit: Habit, rng: np.random.Generator) -> list[list[str]]:
    person = study.person
    first = [
        study.accession,
        person.number,
        f"{person.surname}, {person.given}",
        f"{study.when:%d.%m.%Y}",
        study.breasts["left"].split,
    ]
    right, left = study.breasts["right"], study.breasts["left"]
    lesions = [_class(right), _class(left)]
    if habit.reports == "rows":
        order = (("R", right, lesions[0]), ("L", left, lesions[1]))
        return [
            [*first, side, _letter(study, exam.report or "", rng), lesion] for side, exam, lesion in order
        ]
    if habit.reports == "columns":
        return [[*first, *(_letter(study, exam.report or "", rng) for exam in (right, left)), *lesions]]
    both = _BOTH[int(rng.integers(len(_BOTH)))].format(right=right.report, left=left.report)
    return [[*first, _letter(study, both, rng), *lesions]]


def _class(exam: ExamRecord) -> str:
    return "" if exam.lesion is None else str(exam.lesion)


def _letter(study: StudyPlan, text: str, rng: np.random.Generator) -> str:
    """The report, in a third of the cases with patient and doctors named around it."""
    if rng.random() > 1 / 3:
        return text
    person = study.person
    greeting = (
        f"Sehr geehrter Herr Kollege Dr. {person.sent_by}, wir berichten über {person.spoken}.",
        f"Pat.: {person.surname}, {person.given}, geb. {person.born:%d.%m.%Y}",
        f"Frau {person.surname} stellte sich auf Überweisung von Dr. med. {person.sent_by} vor.",
    )[int(rng.integers(3))]
    return f"{greeting}\n{text}\nMit freundlichen kollegialen Grüßen\nDr. med. {person.read_by}"


def _workbook(rows: Sequence[Sequence[str]]) -> bytes:
    """An Excel file whose bytes depend on the rows alone: no time of writing in it."""
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "Export"
    for row in rows:
        sheet.append(list(row))
    book.properties.created = datetime(*_ZIP_DATE)
    written, fixed = io.BytesIO(), io.BytesIO()
    book.save(written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(fixed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>2020-01-01T00:00:00Z", content)
            target.writestr(zipfile.ZipInfo(name, _ZIP_DATE), content, zipfile.ZIP_DEFLATED)
    return fixed.getvalue()
