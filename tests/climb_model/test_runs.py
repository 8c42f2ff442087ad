"""Run folders, checkpoints and the four keys that travel."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from climb_model.atomic import write_atomic, write_text_atomic
from climb_model.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from climb_model.progress import Silent, observer, watched_by
from climb_model.randomness import derived_seed, own_random_states
from climb_model.run_config import from_run_config, study_number, to_run_config
from climb_model.runs import RoundRecord, RunError, RunFolder, SiteRound
from configs.errors import SettingsError
from configs.load import load_settings, settings_hash

SITE = SiteRound(exams=3, steps=2, loss=1.5, seconds=0.25, bytes_up=7, bytes_down=8)
RECORD = RoundRecord(
    round=1,
    seconds=2.0,
    global_step=4,
    sites={"Köln": SITE},
    mean_auc=None,
    auc={"Zyste": 0.75, "Radiäre Narbe": None},
    rejected=({"site": "B", "reason": "site 'B' did not answer"},),
)


def checkpoint(round: int) -> Checkpoint:
    return Checkpoint(
        study="s",
        settings="cafe",
        round=round,
        global_step=5 * round,
        exams={"A": 3},
        notices={"A": ("1 exam without a report",)},
        history=(RECORD,) * round,
        shared={"log_scale": torch.tensor(0.1), "w": torch.arange(6.0).reshape(2, 3).T},
        server={"first/w": torch.ones(2, dtype=torch.float64)},
    )


def test_a_record_is_read_back_equal() -> None:
    assert RoundRecord.from_json(json.loads(json.dumps(RECORD.to_json()))) == RECORD


def test_a_run_folder_is_read_back_equal(tmp_path: Path) -> None:
    made = RunFolder.create(tmp_path / "r", load_settings("debug"), "study")
    made.write_history([RECORD, RECORD])
    found = RunFolder.open(tmp_path / "r")
    assert found == made
    assert found.history() == [RECORD, RECORD]
    assert found.summary() is None
    found.write_summary({"rounds": 2})
    assert found.summary() == {"rounds": 2}


def test_each_run_that_is_begun_has_a_number_of_its_own(tmp_path: Path) -> None:
    first, second = (RunFolder.create(tmp_path / "r", load_settings("debug"), "study") for _ in range(2))
    assert len(first.number) == 16
    assert first.number != second.number
    assert RunFolder.open(tmp_path / "r").number == second.number


def test_predictions_leave_unknown_labels_empty(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", load_settings("debug"), "study")
    labels, scores = np.array([[1.0, np.nan]]), np.array([[0.25, 1 / 3]])
    run.write_predictions(["007_left"], ["007"], ["Zyste", "Karzinom"], labels, scores)
    assert (tmp_path / "r/predictions.csv").read_text().splitlines() == [
        "uid,patient,finding,label,score",
        "007_left,007,Zyste,1,0.25",
        f"007_left,007,Karzinom,,{1 / 3!r}",
    ]


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, "-x"])
def test_a_study_without_a_usable_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="a study is named with 1 to 64"):
        RunFolder.create(tmp_path / "r", load_settings("debug"), name)


def test_a_checkpoint_is_read_back_equal(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert {key: value for key, value in vars(found).items() if key not in ("shared", "server")} == {
        key: value for key, value in vars(checkpoint(1)).items() if key not in ("shared", "server")
    }
    for kind in ("shared", "server"):
        ours, theirs = vars(found)[kind], vars(checkpoint(1))[kind]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert all(ours[name].dtype == theirs[name].dtype for name in theirs)


def test_the_last_two_checkpoints_are_kept_and_the_newest_is_found(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for round in (0, 1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(round))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "round-0002.safetensors",
        "round-0003.safetensors",
    ]
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.round == 3


@pytest.mark.parametrize("content", [b"", b"x" * 9, b"\x00" * 200])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "round-0001.safetensors").write_bytes(content)
    with pytest.raises(RunError, match=r"round-0001\.safetensors is damaged"):
        newest_checkpoint(tmp_path)


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    (tmp_path / "round-0002.safetensors.unfinished").write_bytes(b"half")
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.round == 1


def test_a_write_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    write_text_atomic(path, "old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new and longer")
    assert path.read_text() == "old"


def test_settings_travel_as_preset_and_overrides_and_come_back_equal() -> None:
    settings = load_settings(
        "debug",
        [
            "seed=7",
            "data.sequences=[Pre, T2]",
            "evaluation.findings=[Zyste, Radiäre Narbe]",
            "training.learning_rate=1e-7",
            "federation.reset_optimizer=true",
            "evaluation.negative_prompts=['Kein {finding}.', \"Ohne '{finding}', sonst nichts\"]",
        ],
    )
    number = "0123456789abcdef"
    sent = to_run_config(settings, "study-1", number)
    assert set(sent) == {"study", "study-number", "preset", "overrides"}
    assert study_number(sent) == number
    study, found = from_run_config(sent)
    assert study == "study-1"
    assert found == settings
    assert settings_hash(found) == settings_hash(settings)
    assert from_run_config({"study": "s", "preset": "debug", "overrides": ""})[1] == load_settings("debug")


@pytest.mark.parametrize("overrides", ["{", "{}", "[1]", '"seed=1"'])
def test_overrides_that_are_no_list_of_texts_are_refused(overrides: str) -> None:
    with pytest.raises(RunError, match="'overrides' must be a JSON list"):
        from_run_config({"study": "s", "preset": "debug", "overrides": overrides})


@pytest.mark.parametrize("number", ["0123", "../" + "0" * 13, "0" * 17, 7, "0" * 16 + "\n"])
def test_a_study_number_of_another_form_is_refused(number: object) -> None:
    with pytest.raises(RunError, match="'study-number' must be 16 hexadecimal digits"):
        study_number({"study-number": number})
    assert study_number({}) == study_number({"study-number": ""}) == ""


def test_a_run_config_without_study_or_preset_is_refused() -> None:
    with pytest.raises(RunError, match="a study is named"):
        from_run_config({"preset": "debug"})
    with pytest.raises(SettingsError):
        from_run_config({"study": "s"})


def test_nobody_watching_is_silence_and_a_watcher_hears_only_inside() -> None:
    class Ear(Silent):
        pass

    ear = Ear()
    assert type(observer()) is Silent
    with watched_by(ear):
        assert observer() is ear
    assert type(observer()) is Silent


def test_derived_seeds_differ_by_each_part_and_stay_the_same() -> None:
    seeds = [
        derived_seed(0, "A", 1),
        derived_seed(0, "A", 2),
        derived_seed(0, "B", 1),
        derived_seed(1, "A", 1),
    ]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_random_states_are_restored_also_after_an_error() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)

    def fail() -> None:
        with own_random_states(5):
            torch.rand(10)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.rand(2), expected)
