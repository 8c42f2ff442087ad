"""Labelled exams as a measure: what is scored when, where thresholds come from, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from climb_model.evaluation import labelled
from climb_model.evaluation.labelled import NoLabels, open_labelled, operating_table, unmeasured
from climb_model.evaluation.zero_shot import ZeroShot
from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import ExamSet
from configs.load import load_settings

SETTINGS = load_settings("debug", ["training.num_threads=1", "evaluation.findings=[Zyste, Karzinom]"])
FROZEN = FrozenEncoders.load(SETTINGS)


@pytest.fixture
def site(make_site: Callable[..., Path], tmp_path: Path) -> Path:
    """Ten exams of split test; the first four of them made validation exams."""
    folder = make_site(tmp_path / "data", "CLINIC", exams=40)
    table = folder / "metadata_unilateral" / "split.csv"
    lines = table.read_text("utf-8").splitlines()
    tests = [number for number, line in enumerate(lines) if ",test," in line]
    for number in tests[:4]:
        lines[number] = lines[number].replace(",test,", ",val,")
    table.write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def relabel(folder: Path, change: Callable[[str], str]) -> None:
    table = folder / "metadata_unilateral" / "findings.csv"
    head, *rows = table.read_text("utf-8").splitlines()
    table.write_text("\n".join([head, *map(change, rows)]) + "\n", "utf-8")


def test_validation_exams_are_scored_at_the_end_only(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exams, model = open_labelled(site, SETTINGS, FROZEN, tmp_path / "scratch"), build_model(SETTINGS)
    scored: list[int] = []
    original = labelled.zero_shot

    def counted(model: object, some: ExamSet, *rest: object) -> ZeroShot:
        scored.append(some.num_exams)
        return original(model, some, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(labelled, "zero_shot", counted)
    mean, aucs = exams.aucs(model)
    assert scored == [6]
    _, result = exams.measure(model)
    assert scored == [6, 6, 4]
    assert result["mean_auc"] == mean
    assert {finding: row["auc"] for finding, row in result["auc_table"].items()} == aucs  # type: ignore[union-attr]
    assert result["measured_on"] == {"site": "CLINIC", "split": "test"}
    assert (result["central_exams"], result["validation_exams"]) == (6, 4)
    assert result["operating_specificity"] == SETTINGS.evaluation.specificity


def test_validation_exams_reported_themselves_choose_no_threshold(site: Path, tmp_path: Path) -> None:
    exams = open_labelled(site, SETTINGS, FROZEN, tmp_path / "scratch", split="val")
    _, result = exams.measure(build_model(SETTINGS))
    assert (exams.exams.num_exams, exams.validation) == (4, None)
    assert result["measured_on"] == {"site": "CLINIC", "split": "val"}
    assert result["validation_exams"] == 0
    table = result["operating"]
    assert isinstance(table, dict)
    assert [row["threshold"] for row in table.values()] == [None, None]
    assert all(0 <= row["brier"] <= 1 for row in table.values())


def test_thresholds_come_from_validation_exams_only(site: Path, tmp_path: Path) -> None:
    """Relabelling the reported exams moves what a threshold does, and never the threshold."""
    model = build_model(SETTINGS)

    def table() -> dict[str, dict[str, float | None]]:
        return open_labelled(site, SETTINGS, FROZEN, tmp_path / "scratch").measure(model)[1]["operating"]  # type: ignore[return-value]

    reported = open_labelled(site, SETTINGS, FROZEN, tmp_path / "scratch").exams.uids
    first = table()
    relabel(site, lambda row: f"{row.split(',')[0]},1,1" if row.split(",")[0] in reported else row)
    second = table()
    for finding in ("Zyste", "Karzinom"):
        assert first[finding]["threshold"] == second[finding]["threshold"] is not None
        assert first[finding]["specificity"] is not None
        assert second[finding]["specificity"] is None  # no reported exam is without it now
        assert second[finding]["sensitivity"] is not None


def test_the_table_by_hand() -> None:
    nan = math.nan

    def exams(scores: list[float], labels: list[float]) -> ZeroShot:
        names = tuple(map(str, range(len(scores))))
        return ZeroShot(("Zyste",), names, names, np.array([scores]).T, np.array([labels]).T)

    found = exams([0.2, 0.6, 0.7, 0.9, 0.4], [0, 0, 1, 1, nan])
    chosen = exams([0.1, 0.3, 0.5, 0.8], [0, 0, 0, 1])
    row = operating_table(found, chosen, 0.6)["Zyste"]
    assert row["brier"] == pytest.approx((0.04 + 0.36 + 0.09 + 0.01) / 4)
    assert row["calibration_error"] == pytest.approx((0.2 + 0.6 + 0.3 + 0.1) / 4)
    assert row["threshold"] == 0.5  # two of three negatives below it
    assert (row["sensitivity"], row["specificity"]) == (1.0, 0.5)
    alone = operating_table(found, None, 0.6)["Zyste"]
    assert (alone["brier"], alone["threshold"], alone["specificity"]) == (row["brier"], None, None)


def test_without_exams_everything_is_undefined() -> None:
    found, result = unmeasured(SETTINGS)
    assert (found.uids, result["mean_auc"], result["measured_on"], result["central_exams"]) == (
        (),
        None,
        None,
        0,
    )
    assert result["auc_table"] == {
        finding: {"auc": None, "ci_low": None, "ci_high": None, "positives": 0, "negatives": 0}
        for finding in ("Zyste", "Karzinom")
    }
    assert {value for row in result["operating"].values() for value in row.values()} == {None}  # type: ignore[union-attr]


def test_a_folder_without_findings_is_refused_in_a_line_that_may_travel(site: Path, tmp_path: Path) -> None:
    (site / "metadata_unilateral" / "findings.csv").unlink()
    with pytest.raises(NoLabels) as caught:
        open_labelled(site, SETTINGS, FROZEN, tmp_path / "scratch")
    assert str(caught.value) == caught.value.public
    assert caught.value.public == ("site 'CLINIC' has no findings (findings.csv or its columns are missing)")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_a_known_label_is_refused(split: str, site: Path, tmp_path: Path) -> None:
    relabel(site, lambda row: f"{row.split(',')[0]},,")
    with pytest.raises(NoLabels, match=f"site 'CLINIC' has no labelled exam in split '{split}'"):
        open_labelled(site, SETTINGS, FROZEN, tmp_path / "scratch", split=split)


def test_labels_on_unusable_volumes_do_not_count(site: Path, tmp_path: Path) -> None:
    known = open_labelled(site, SETTINGS, FROZEN, tmp_path / "scratch").exams.uids[0]
    relabel(site, lambda row: row if row.startswith(known) else f"{row.split(',')[0]},,")
    for file in (site / "data_unilateral" / known).iterdir():
        file.write_bytes(b"no volume")
    with pytest.raises(NoLabels, match="no labelled exam in split 'test' whose volumes can be used"):
        open_labelled(site, SETTINGS, FROZEN, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("damaged", "notice", "left"),
    [
        (1, "1 validation exams with unusable volumes left out", 3),
        (4, "none of 4 validation exams can be used: no thresholds", 0),
    ],
)
def test_validation_exams_that_cannot_be_used_are_told_of(
    damaged: int, notice: str, left: int, site: Path, tmp_path: Path
) -> None:
    exams = open_labelled(site, SETTINGS, FROZEN, tmp_path / "scratch")
    assert exams.validation is not None
    for uid in exams.validation.uids[:damaged]:
        for file in (site / "data_unilateral" / uid).iterdir():
            file.write_bytes(b"no volume")
    exams = open_labelled(site, SETTINGS, FROZEN, tmp_path / "again")
    assert exams.notices == (notice,)
    _, result = exams.measure(build_model(SETTINGS))
    assert (result["validation_exams"], result["central_notices"]) == (left, [notice])
