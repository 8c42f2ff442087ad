"""An evaluation with reports: retrieval beside the AUCs, in their place without labels, and never unasked."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from climb_model.evaluation.evaluate import evaluate, write_evaluation
from climb_model.evaluation.labelled import NoLabels
from climb_model.evaluation.reported import open_reported
from climb_model.evaluation.retrieval import measure_retrieval, to_json
from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.report.evaluated import write_evaluation_report
from climb_model.results import evaluation_lines
from climb_model.runs import RunFolder
from climb_model.sharing import shared_state
from configs.load import load_settings
from configs.schema import Settings

OVERRIDES = ["evaluation.findings=[Zyste, Karzinom]", "training.num_threads=1"]


@dataclass(frozen=True)
class Hospital:
    """A site of 32 breasts, 8 of them in `test`, and weights of a finished run."""

    data: Path
    shared: Path
    settings: Settings

    @property
    def reports(self) -> Path:
        return self.data / "metadata_unilateral" / "reports.csv"

    @property
    def findings(self) -> Path:
        return self.data / "metadata_unilateral" / "findings.csv"

    def measured(self) -> dict[str, Any]:
        return evaluate(self.shared, self.data, None, reports=True).summary


@pytest.fixture
def hospital(make_site: Callable[..., Path], tmp_path: Path) -> Hospital:
    settings = load_settings("debug", OVERRIDES)
    run = RunFolder.create(tmp_path / "run", settings, "study")
    run.write_shared(shared_state(build_model(settings)), 3, FrozenEncoders.load(settings, None).fingerprint)
    return Hospital(make_site(tmp_path, "H", exams=32), run.path / "shared.safetensors", settings)


def test_retrieval_stands_beside_the_aucs(hospital: Hospital, tmp_path: Path) -> None:
    summary = hospital.measured()
    plain = evaluate(hospital.shared, hospital.data, None).summary
    assert {key: value for key, value in summary.items() if key in plain} == plain
    assert set(summary) - set(plain) == {"retrieval", "retrieval_notices"}
    frozen = FrozenEncoders.load(hospital.settings, None)
    exams = open_reported(hospital.data, hospital.settings, frozen, tmp_path / "s", name=None, split="test")
    found = measure_retrieval(build_model(hospital.settings), exams, frozen.text, hospital.settings)
    assert found is not None
    assert found.exams == 8
    assert summary["retrieval"] == to_json(found)
    lines = evaluation_lines(summary)
    assert any(line.startswith("Zyste") for line in lines)
    assert any(line.startswith("image to report  R@1") for line in lines)


def test_reports_are_opened_only_when_asked_for(hospital: Hospital) -> None:
    hospital.reports.write_bytes(b"\xff no table")
    summary = evaluate(hospital.shared, hospital.data, None).summary
    assert "retrieval" not in summary
    assert not any("retrieval" in line for line in evaluation_lines(summary))


def test_a_site_without_labels_has_retrieval_alone(hospital: Hospital, tmp_path: Path) -> None:
    before = hospital.measured()["retrieval"]
    hospital.findings.unlink()
    found = evaluate(hospital.shared, hospital.data, None, reports=True)
    assert found.summary["retrieval"] == before
    assert found.summary["mean_auc"] is None
    assert found.summary["measured_on"] == {"site": "H", "split": "test"}
    lines = evaluation_lines(found.summary)
    assert lines[:2] == [
        "8 exams of H, split test",
        "no findings (findings.csv or its columns are missing): no AUC",
    ]
    assert not any(line.startswith("Zyste") for line in lines)
    write_evaluation(found, tmp_path / "out")
    page = write_evaluation_report(tmp_path / "out").read_text("utf-8")
    assert "median rank" in page
    assert "ROC curves" not in page


def test_without_labels_and_reports_it_is_labels_that_are_missing(hospital: Hospital) -> None:
    hospital.findings.unlink()
    hospital.reports.unlink()
    with pytest.raises(NoLabels, match="site 'H' has no findings"):
        hospital.measured()


def test_without_reports_the_aucs_stay_and_the_reason_is_told(hospital: Hospital) -> None:
    before = hospital.measured()
    hospital.reports.unlink()
    after = hospital.measured()
    assert after["retrieval"] is None
    assert after["retrieval_notices"] == ["no retrieval: site 'H': table reports.csv is missing"]
    assert after["auc_table"] == before["auc_table"]
    assert "no retrieval: site 'H': table reports.csv is missing" in evaluation_lines(after)


def test_exams_without_a_report_are_left_out_of_retrieval_and_counted(hospital: Hospital) -> None:
    with hospital.reports.open(encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file))
    test = [row[0] for row in rows][-8:]

    def keep(wanted: set[str]) -> dict[str, Any]:
        with hospital.reports.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *(row for row in rows if row[0] in wanted)])
        return hospital.measured()

    some = keep(set(test[2:]))
    assert (some["central_exams"], some["retrieval"]["exams"]) == (8, 6)
    assert some["retrieval"]["without_report"] == 2
    none = keep({row[0] for row in rows} - set(test))
    assert none["retrieval"] is None
    assert none["retrieval_notices"] == ["no retrieval: none of these exams has a report"]


def test_unknown_words_in_reports_stop_retrieval_alone(hospital: Hospital) -> None:
    text = hospital.reports.read_text("utf-8")
    hospital.reports.write_text(text.replace("Zyste", "♞♞♞ ♞♞♞ ♞♞♞ ♞♞♞"), "utf-8")
    summary = hospital.measured()
    assert summary["retrieval"] is None
    assert "report tokens are unknown" in summary["retrieval_notices"][0]
    assert "♞" not in str(summary["retrieval_notices"])
