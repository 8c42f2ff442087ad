"""`climb-site similar`: who is listed, in which order, and what is not shown."""

from __future__ import annotations

import csv
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from client.cli import main
from client.similar import ExamError, nearest, similar
from climb_model.data.exam import SPLITS, ExamRecord
from climb_model.data.views import make_view
from climb_model.data.volume import read_volume
from climb_model.model.climb import ImageTokens, build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import encode_volume, read_exams
from climb_model.runs import RunFolder
from climb_model.sharing import shared_state
from configs.load import load_settings
from configs.schema import Settings

Command = Callable[..., tuple[int, str, str]]
OVERRIDES = ["evaluation.findings=[Zyste, Karzinom]", "training.num_threads=1"]


@dataclass(frozen=True)
class Hospital:
    """A site of 8 breasts (6 train, 2 test), and weights of a finished run."""

    data: Path
    shared: Path
    settings: Settings

    def call(self, command: Command, uid: str, *more: object) -> tuple[int, str, str]:
        return command(main, "similar", uid, "--site", self.data, "--shared", self.shared, *more)

    def rows(self, command: Command, uid: str, *more: object) -> list[list[str]]:
        """The table's rows: number, UID, split, cosine, and perhaps `same patient`."""
        code, out, _ = self.call(command, uid, *more)
        assert code == 0
        return [line.split() for line in out.splitlines() if line[:4].strip().isdigit()]


def finished(folder: Path, settings: Settings) -> Path:
    run = RunFolder.create(folder, settings, "study")
    run.write_shared(shared_state(build_model(settings)), 3, FrozenEncoders.load(settings, None).fingerprint)
    return run.path / "shared.safetensors"


@pytest.fixture
def hospital(make_site: Callable[..., Path], tmp_path: Path) -> Hospital:
    settings = load_settings("debug", OVERRIDES)
    return Hospital(make_site(tmp_path, "H", exams=8), finished(tmp_path / "run", settings), settings)


def one_by_one(hospital: Hospital) -> dict[str, torch.Tensor]:
    """Each exam's embedding, read, encoded and embedded alone."""
    frozen, model = FrozenEncoders.load(hospital.settings, None), build_model(hospital.settings).eval()
    site = read_exams(hospital.data, hospital.settings, need_reports=False, need_findings=False)
    vectors: dict[str, torch.Tensor] = {}
    for exam in site.exams:
        volume = make_view(read_volume(exam, hospital.settings.data), exam.uid, 0)
        tokens = torch.from_numpy(encode_volume(volume, frozen)).float()[None]
        with torch.no_grad():
            image = ImageTokens(tokens, torch.from_numpy(volume.present.reshape(1, -1)))
            vectors[exam.uid] = model.embed_image(image).vectors[0].double()
    return vectors


def test_all_other_exams_are_listed_the_nearest_first(hospital: Hospital, command: Command) -> None:
    vectors = one_by_one(hospital)
    question = vectors.pop("H0001_left")
    cosines = {uid: float(question @ vector) for uid, vector in vectors.items()}
    rows = hospital.rows(command, "H0001_left")
    assert [row[1] for row in rows] == sorted(cosines, key=lambda uid: -cosines[uid])
    assert len(rows) == 7
    for number, uid, split, cosine, *mark in rows:
        assert float(cosine) == pytest.approx(cosines[uid], abs=1e-4)
        assert split == ("test" if uid.startswith("H0003") else "train")
        assert mark == (["same", "patient"] if uid == "H0001_right" else [])
        assert rows[int(number) - 1][1] == uid


def test_top_cuts_the_list(hospital: Hospital, command: Command) -> None:
    rows = hospital.rows(command, "H0001_left", "--top", 2)
    assert rows == hospital.rows(command, "H0001_left")[:2]
    _, out, _ = hospital.call(command, "H0001_left", "--top", 2)
    lines = out.splitlines()
    assert lines[0] == (
        "exam H0001_left (train) of site H: the nearest 2 of 7 by image embedding, weights of round 3"
    )
    assert lines[-1] == "Research use, not a medical device."


def test_a_split_limits_who_is_listed_and_not_who_is_asked(hospital: Hospital, command: Command) -> None:
    rows = hospital.rows(command, "H0001_left", "--split", "test")
    assert {row[1] for row in rows} == {"H0003_left", "H0003_right"}
    both = hospital.rows(command, "H0003_left", "--split", "train", "--split", "test")
    assert len(both) == 7
    assert {row[2] for row in both} == {"train", "test"}
    assert len(hospital.rows(command, "H0003_left", "--split", "train")) == 6


def test_every_split_can_be_named(hospital: Hospital, command: Command) -> None:
    code, _, err = hospital.call(command, "H0001_left", "--split", "all")
    assert code == 2
    assert all(split in err for split in SPLITS)


def test_reports_are_shown_only_when_asked_for(hospital: Hospital, command: Command) -> None:
    with (hospital.data / "metadata_unilateral" / "reports.csv").open(encoding="utf-8", newline="") as file:
        reports = dict(list(csv.reader(file))[1:])
    _, plain, _ = hospital.call(command, "H0001_left")
    assert not any(report[:20] in plain for report in reports.values())
    code, out, _ = hospital.call(command, "H0001_left", "--top", 3, "--show-reports")
    assert code == 0
    told = " ".join(out.split())
    listed = [row[1] for row in hospital.rows(command, "H0001_left", "--top", 3)]
    for uid in ["H0001_left", *listed]:
        assert reports[uid] in told
    assert told.index(reports["H0001_left"]) < told.index(listed[0])


def test_an_exam_without_a_report_is_listed_all_the_same(hospital: Hospital, command: Command) -> None:
    file = hospital.data / "metadata_unilateral" / "reports.csv"
    lines = file.read_text("utf-8").splitlines()
    file.write_text("\n".join(line for line in lines if not line.startswith("H0000_left")) + "\n", "utf-8")
    _, out, _ = hospital.call(command, "H0001_left", "--show-reports")
    lines = out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if "H0000_left" in line]
    assert lines[place + 1].strip() == "no report"
    file.unlink()
    assert hospital.call(command, "H0001_left")[0] == 0


def test_no_control_code_of_a_report_reaches_the_screen(hospital: Hospital, command: Command) -> None:
    file = hospital.data / "metadata_unilateral" / "reports.csv"
    file.write_text(file.read_text("utf-8").replace("Zyste", "\x1b[31mZyste"), "utf-8")
    _, out, _ = hospital.call(command, "H0001_left", "--show-reports")
    assert "[31mZyste" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("H0001", "did you mean 'H0001_left' or 'H0001_right'?"),
        ("H0001_Left", "did you mean 'H0001_left' or"),
        ("9", "it has 8 exams"),
    ],
)
def test_an_unknown_exam_is_one_line_with_the_nearest(
    asked: str, told: str, hospital: Hospital, command: Command
) -> None:
    code, out, err = hospital.call(command, asked)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"climb-site: site 'H' has no exam '{asked}'; {told}")


def test_an_exam_that_cannot_be_used_says_why(hospital: Hospital, command: Command) -> None:
    folder = hospital.data / "data_unilateral"
    for file in (folder / "H0000_left").iterdir():
        file.write_bytes(b"no image")
    for file in (folder / "H0000_right").iterdir():
        file.unlink()
    for uid, why in (("H0000_left", "cannot be used: "), ("H0000_right", "cannot be used: no sequence file")):
        code, out, err = hospital.call(command, uid)
        assert (code, out) == (1, "")
        assert f"climb-site: exam '{uid}' of site 'H' {why}" in err
    code, out, _ = hospital.call(command, "H0001_left")
    assert code == 0
    assert "2 exams of the site cannot be used" in out
    assert "H0000" not in out


def test_nothing_is_kept_without_a_scratch_folder(
    hospital: Hospital, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "passing").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "passing"))
    before = sorted(tmp_path.rglob("*"))
    assert hospital.call(command, "H0001_left")[0] == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_scratch_folder_keeps_the_tokens_for_the_next_time(
    hospital: Hospital, command: Command, tmp_path: Path
) -> None:
    scratch = tmp_path / "private"
    scratch.mkdir()
    (scratch / "tokens-train.json").write_text("of training")
    first = hospital.call(command, "H0001_left", "--scratch", scratch)
    kept = {path: path.stat().st_mtime_ns for path in scratch.rglob("*.f16")}
    assert {path.name for path in kept} == {"tokens-train.f16", "tokens-test.f16"}
    assert stat.S_IMODE((scratch / "similar").stat().st_mode) == 0o700
    assert (scratch / "tokens-train.json").read_text() == "of training"
    second = hospital.call(command, "H0001_left", "--scratch", scratch)
    assert first[1] == second[1]
    assert {path: path.stat().st_mtime_ns for path in scratch.rglob("*.f16")} == kept
    assert "slice tokens of 6 exams are ready" in first[2]
    assert second[2] == ""


def test_training_exams_are_seen_without_augmentation(
    hospital: Hospital, command: Command, tmp_path: Path
) -> None:
    settings = load_settings("debug", [*OVERRIDES, "data.num_views=3"])
    several = Hospital(hospital.data, finished(tmp_path / "several", settings), settings)
    scratch = tmp_path / "scratch"
    assert several.rows(command, "H0001_left", "--scratch", scratch) == hospital.rows(command, "H0001_left")
    single = tmp_path / "single"
    hospital.call(command, "H0001_left", "--scratch", single)
    sizes = [(path / "similar" / "tokens-train.f16").stat().st_size for path in (scratch, single)]
    assert sizes[0] == sizes[1]


def test_weights_of_other_frozen_parts_are_refused(hospital: Hospital, command: Command) -> None:
    here = FrozenEncoders.load(hospital.settings, None).fingerprint
    run = RunFolder.open(hospital.shared.parent)
    run.write_shared(load_file(hospital.shared), 3, {**here, "vision": "0" * 64})
    code, out, err = hospital.call(command, "H0001_left")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "trained with other frozen parts (vision: 000000000000 then" in err


def test_the_weights_decide_who_is_near(hospital: Hospital, command: Command) -> None:
    before = hospital.rows(command, "H0001_left")
    other = build_model(load_settings("debug", [*OVERRIDES, "seed=7"]))
    run = RunFolder.open(hospital.shared.parent)
    run.write_shared(shared_state(other), 3, FrozenEncoders.load(hospital.settings, None).fingerprint)
    assert hospital.rows(command, "H0001_left") != before


def exam(uid: str, patient: str) -> ExamRecord:
    return ExamRecord(uid=uid, patient=patient, split="train", files={})


def test_of_equal_cosine_the_uid_decides_and_another_examination_of_the_patient_is_marked() -> None:
    asked = exam("c", "p")
    vectors = {
        "a": torch.tensor([0.6, 0.8]),
        "b": torch.tensor([0.6, 0.8]),
        "c": torch.tensor([1.0, 0.0]),
        "d": torch.tensor([-1.0, 0.0]),
        "e": torch.tensor([1.0, 0.0]),
    }
    others = [exam("d", "q"), exam("b", "p"), exam("a", "q"), exam("e", "r")]
    found = nearest(asked, others, vectors)
    assert [(row.uid, row.same_patient) for row in found] == [
        ("e", False),
        ("a", False),
        ("b", True),
        ("d", False),
    ]
    assert [row.cosine for row in found] == pytest.approx([1.0, 0.6, 0.6, -1.0])


def test_an_error_that_names_exams_is_an_exam_error(hospital: Hospital) -> None:
    with pytest.raises(ExamError):
        similar("no", hospital.data, hospital.shared, None, top=1)


def test_what_was_found_shows_no_exam_in_its_repr(hospital: Hospital) -> None:
    found = similar("H0001_left", hospital.data, hospital.shared, None, top=3, show_reports=True)
    assert found.reports
    assert "H0001" not in repr(found)
    assert not any(report in repr(found) for report in found.reports.values())
