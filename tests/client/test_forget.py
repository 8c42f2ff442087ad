"""`climb-site forget`: what goes, what stays, and what is said."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from client import forget as forgetting
from client.audit import read_log
from client.cli import main
from client.evaluate import evaluate_run
from client.forget import NOT_UNLEARNED, ForgetError, exams_of_patient, forget, to_lines
from client.node.settings import NodeSettings, write_node
from client.state import PrivateState, StateError, save_state
from client.traces import NATIVE, Trace, find_traces
from client.train import resume_alone, train_alone
from client.trained_exams import EXAMS_FILE, MARKS_FILE, forgotten_notice, mark_forgotten, trained_exams
from climb_model.data.exam import DataError
from climb_model.intake.forgotten import SITE_LOCK, is_forgotten
from climb_model.intake.pseudonym import patient_id, pseudonym, site_key
from climb_model.lock import LockedError, only_process
from climb_model.prepare import read_exams
from configs.errors import UserError
from configs.load import load_settings

Command = Callable[..., tuple[int, str, str]]

SETTINGS = load_settings(
    "debug",
    [
        "training.num_threads=1",
        "evaluation.findings=[Zyste, Karzinom]",
        "evaluation.bootstrap=20",
        "evaluation.max_unknown_share=0.9",
        "federation.num_rounds=1",
    ],
)
LEFT, RIGHT, WHOLE = "KLINIK0000_left", "KLINIK0000_right", "KLINIK0000"


@pytest.fixture
def site(make_site: Callable[..., Path], tmp_path: Path) -> Path:
    """Eight breasts as the import leaves them: native volumes, report of the import, a key."""
    site = make_site(tmp_path / "data", "KLINIK", exams=8)
    for exam in (WHOLE, "KLINIK0001"):
        (site / "data" / exam).mkdir(parents=True)
        (site / "data" / exam / "Pre.nii.gz").write_bytes(b"voxels")
    rows = f"what,exam,num_files,reason\r\nseries,{WHOLE},3,localizer\r\nseries,KLINIK0001,1,localizer\r\n"
    (site / "import-report.csv").write_text(rows, "utf-8")
    site_key(site)
    return site


@pytest.fixture(scope="module")
def trained_once(make_site: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, for copies of it."""
    root = tmp_path_factory.mktemp("trained")
    train_alone(make_site(root / "data", "KLINIK", exams=8), SETTINGS, root / "run")
    return root / "run"


@pytest.fixture
def trained(site: Path, trained_once: Path, tmp_path: Path) -> Path:
    """The run folder of a training on all exams of the site."""
    assert site.parent == tmp_path / "data"
    out = tmp_path / "run"
    shutil.copytree(trained_once, out)
    place = (out / "site.json").read_text("utf-8")
    (out / "site.json").write_text(place.replace(str(trained_once.parent), str(tmp_path)), "utf-8")
    return out


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("lock")
    }


def naming(folder: Path, uid: str) -> list[str]:
    """Files below a folder whose name or content names an exam."""
    return [name for name, content in everything(folder).items() if uid in name or uid.encode() in content]


def uids_of(table: Path) -> list[str]:
    with table.open(encoding="utf-8", newline="") as file:
        return [row[0] for row in csv.reader(file)][1:]


def test_one_breast_goes_with_its_rows_and_the_native_volumes_and_the_other_stays(site: Path) -> None:
    before = everything(site)
    found = forget(LEFT, site)
    assert naming(site, LEFT) == []
    assert not (site / "data" / WHOLE).exists()
    after = everything(site)
    others = [name for name in before if name.startswith("data") and WHOLE not in name]
    others += [name for name in before if name.startswith(f"data_unilateral/{RIGHT}")]
    assert len(others) == 7 * 3 + 1
    assert all(after[name] == before[name] for name in others)
    for table in ("annotation", "split", "reports", "findings"):
        uids = uids_of(site / "metadata_unilateral" / f"{table}.csv")
        assert len(uids) == 7
        assert RIGHT in uids
    assert "KLINIK0001" in after["import-report.csv"].decode()
    lines = to_lines(found)
    assert "the native volumes hold both breasts; the other breast keeps its own volumes and rows" in lines
    assert tuple(lines[-3:]) == NOT_UNLEARNED
    left = read_exams(site, SETTINGS, need_reports=True, need_findings=True)
    assert [exam.uid for exam in left.exams if exam.uid.startswith(WHOLE)] == [RIGHT]


def test_a_whole_exam_goes_with_both_breasts(site: Path) -> None:
    forget(WHOLE, site)
    assert naming(site, WHOLE) == []
    assert len(read_exams(site, SETTINGS, need_reports=True, need_findings=True).exams) == 6
    assert is_forgotten(site, LEFT)
    assert is_forgotten(site, WHOLE)
    assert not is_forgotten(site, "KLINIK0001")


def test_a_dry_run_lists_the_same_and_changes_nothing(site: Path, trained: Path) -> None:
    before = everything(site.parent) | everything(trained)
    dry = forget(LEFT, site, [trained], dry_run=True)
    assert everything(site.parent) | everything(trained) == before
    assert not (site / SITE_LOCK).exists()
    lines = to_lines(dry)
    assert lines[0] == f"would be removed of {LEFT}:"
    assert lines[-1] == "nothing was changed (dry run)"
    done = forget(LEFT, site, [trained])
    assert [trace.path for trace in done.traces.removable] == [trace.path for trace in dry.traces.removable]


def test_what_a_training_derived_from_it_goes_and_its_weights_are_marked(site: Path, trained: Path) -> None:
    states = trained / "sites" / "KLINIK" / "run"
    assert set(trained_exams(states)) == {
        f"KLINIK{n:04d}_{side}" for n in range(3) for side in ("left", "right")
    }
    weights = (states / "round-0001.pt").read_bytes()
    tested = "KLINIK0003_left"
    assert tested in (trained / "predictions.csv").read_text("utf-8")
    forget(tested, site, [trained])
    assert naming(trained, tested) == []
    assert forgotten_notice(states) is None  # it was measured on, not trained with
    found = forget(LEFT, site, [trained])
    assert naming(trained, LEFT) == []
    assert not list((trained / "sites" / "KLINIK" / "tokens").glob("tokens-train*"))
    assert (states / "round-0001.pt").read_bytes() == weights
    assert forgotten_notice(states) == "private weights were trained with 1 exam that was forgotten since"
    assert list(json.loads((states / MARKS_FILE).read_text()).values()) == [1]
    assert (states / MARKS_FILE).stat().st_mode & 0o777 == 0o600
    assert f"private weights trained with it since round 1, marked: {states}" in to_lines(found)
    forget(RIGHT, site, [trained])
    assert forgotten_notice(states) == "private weights were trained with 2 exams that were forgotten since"


def test_training_and_evaluation_tell_of_marked_weights_and_go_on(site: Path, trained: Path) -> None:
    forget(LEFT, site, [trained])
    told: list[str] = []
    evaluate_run(trained, site, None, say=told.append)
    (trained / "summary.json").unlink()
    resume_alone(trained, say=told.append)
    line = "private weights were trained with 1 exam that was forgotten since"
    assert told == [f"site 'KLINIK': {line}"] * 2
    assert line in (trained / "sites" / "KLINIK" / "site.log").read_text("utf-8")
    tokens = json.loads((trained / "sites" / "KLINIK" / "tokens" / "tokens-train.json").read_text("utf-8"))
    assert LEFT not in tokens["uids"]


def test_kept_results_named_after_it_go(site: Path, tmp_path: Path) -> None:
    prepared = site / "private" / "prepared"
    prepared.mkdir()
    for name in (f"{LEFT}.npy", f".{LEFT}.npy.unfinished", f"{RIGHT}.npy", f"1{LEFT}.npy"):
        (prepared / name).touch()
    (site / "private" / "check-cache.json").write_text(json.dumps({LEFT: "sound"}))
    other = tmp_path / "private"
    other.mkdir()
    (other / "check-cache.json").write_text(json.dumps({RIGHT: "sound"}))
    log = other / "site.log"
    log.write_text(f"10:00 {LEFT} left out: no report\n10:01 first exchange\n", "utf-8")
    forget(LEFT, site, [other])
    assert sorted(path.name for path in prepared.iterdir()) == [f"1{LEFT}.npy", f"{RIGHT}.npy"]
    assert not (site / "private" / "check-cache.json").exists()
    assert (other / "check-cache.json").exists()
    assert log.read_text("utf-8") == "10:01 first exchange\n"


def test_drafts_of_a_killed_import_go(site: Path) -> None:
    for path in (
        site / "data" / f".{WHOLE}.unfinished",
        site / "data_unilateral" / f".{LEFT}.unfinished",
        site / "data_unilateral" / f".{LEFT}.old",
    ):
        path.mkdir()
        (path / "Pre.nii.gz").touch()
    draft = site / "metadata_unilateral" / "reports.csv.unfinished"
    draft.write_text(f"UID,Report\n{LEFT},Zys", "utf-8")
    forget(LEFT, site)
    assert naming(site, LEFT) == []
    assert not draft.exists()
    assert not (site / "data" / f".{WHOLE}.unfinished").exists()


def test_the_audit_log_tells_it_without_naming_the_exam(site: Path) -> None:
    forget(LEFT, site)
    entries = read_log(site / "private")
    assert [entry.kind for entry in entries] == ["forget-begun", "forget-done"]
    assert entries[0].fields["exam"] == entries[1].fields["exam"]
    assert entries[1].fields["removed"] == {"volumes": 1, NATIVE: 1, "table rows": 5}
    assert naming(site / "private", "KLINIK0000") == []


def test_forgotten_again_there_is_nothing_left_and_nothing_changes(site: Path) -> None:
    forget(LEFT, site)
    before = everything(site)
    found = forget(LEFT, site)
    assert to_lines(found) == [f"nothing left of {LEFT}: it was forgotten before"]
    assert everything(site) == before


def test_an_exam_that_came_back_by_hand_is_forgotten_again(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "data_unilateral" / LEFT, tmp_path / "backup")
    forget(LEFT, site)
    shutil.copytree(tmp_path / "backup", site / "data_unilateral" / LEFT)
    assert len(forget(LEFT, site).traces.removable) == 1
    assert [entry.kind for entry in read_log(site / "private")] == ["forget-begun", "forget-done"] * 2


class Kill(BaseException):
    """As sudden as a signal: nothing in the program handles it."""


@pytest.mark.parametrize("steps", range(10))
def test_killed_anywhere_it_is_not_half_usable_and_can_be_asked_for_again(
    steps: int, site: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the removal of the trace with this number."""

    def find(*arguments: object) -> object:
        traces = find_traces(*arguments)  # type: ignore[arg-type]
        assert len(traces.removable) == 9
        return replace(traces, removable=tuple(map(killing, range(len(traces.removable)), traces.removable)))

    def killing(number: int, trace: Trace) -> Trace:
        def kill() -> None:
            raise Kill

        return replace(trace, remove=kill) if number == steps else trace

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "find_traces", find)
        if steps < 9:
            with pytest.raises(Kill):
                forget(WHOLE, site, [trained])
        else:
            forget(WHOLE, site, [trained])
    assert is_forgotten(site, WHOLE)
    usable = [exam.uid for exam in read_exams(site, SETTINGS, need_reports=True, need_findings=True).exams]
    assert all((site / "data_unilateral" / uid / "Pre.nii.gz").is_file() for uid in usable)
    assert forgotten_notice(trained / "sites" / "KLINIK" / "run") is not None
    forget(WHOLE, site, [trained])
    assert naming(site, WHOLE) == naming(trained, WHOLE) == []
    assert [entry.kind for entry in read_log(site / "private")] == ["forget-begun", "forget-done"]


def test_killed_after_the_last_removal_it_is_still_noted_as_done(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = forgetting.append

    def killed(folder: Path, kind: str, fields: dict[str, object]) -> None:
        if kind == forgetting.DONE:
            raise Kill
        append(folder, kind, fields)

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "append", killed)
        with pytest.raises(Kill):
            forget(LEFT, site)
    forget(LEFT, site)
    assert [entry.kind for entry in read_log(site / "private")] == ["forget-begun", "forget-done"]


@pytest.mark.parametrize("name", ["KLINIK0000_lef", "KLINIK00_left", "9999"])
def test_an_unknown_exam_is_refused_with_the_nearest_and_nothing_changes(name: str, site: Path) -> None:
    before = everything(site)
    with pytest.raises(ForgetError, match=f"site 'KLINIK' has no trace of exam '{name}'") as caught:
        forget(name, site)
    assert ("did you mean" in str(caught.value)) == name.startswith("KLINIK")
    assert everything(site) == before
    assert not (site / SITE_LOCK).exists()


@pytest.mark.parametrize("name", ["", "..", "../KLINIK", "a/b", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(name: str, site: Path) -> None:
    with pytest.raises(UserError, match="named by its UID"):
        forget(name, site)


@pytest.mark.parametrize("place", ["run", "run/sites/KLINIK", "import"])
def test_nothing_is_removed_while_a_training_or_an_import_works(
    place: str, site: Path, trained: Path
) -> None:
    before = everything(site) | everything(trained)
    lock = site / SITE_LOCK if place == "import" else trained / "lock"
    with only_process(lock, what="works"), pytest.raises(LockedError, match="nothing was removed"):
        forget(LEFT, site, [trained if place == "import" else trained.parent / place])
    assert everything(site) | everything(trained) == before


def test_a_table_that_cannot_be_read_by_rows_stops_it_before_anything_goes(site: Path) -> None:
    (site / "metadata_unilateral" / "notes.csv").write_bytes(b"UID\n\xff\n")
    before = everything(site)
    with pytest.raises(DataError, match=r"notes\.csv is not UTF-8"):
        forget(LEFT, site)
    assert everything(site) == before


def test_of_a_linked_folder_the_link_goes_and_of_a_linked_table_the_row(site: Path, tmp_path: Path) -> None:
    folder, table = site / "data_unilateral" / LEFT, site / "metadata_unilateral" / "reports.csv"
    shutil.move(folder, tmp_path / "volumes")
    folder.symlink_to(tmp_path / "volumes")
    shutil.move(table, tmp_path / "reports.csv")
    table.symlink_to(tmp_path / "reports.csv")
    forget(LEFT, site)
    assert not folder.is_symlink()
    assert (tmp_path / "volumes" / "Pre.nii.gz").is_file()
    assert table.is_symlink()
    assert LEFT not in (tmp_path / "reports.csv").read_text("utf-8")


def test_a_tables_mode_stays(site: Path) -> None:
    table = site / "metadata_unilateral" / "reports.csv"
    table.chmod(0o660)
    forget(LEFT, site)
    assert table.stat().st_mode & 0o777 == 0o660


def test_a_file_of_another_kind_that_names_it_is_told(site: Path) -> None:
    notes = site / "private" / "notes.txt"
    notes.write_text(f"see {LEFT}; {RIGHT} is fine", "utf-8")
    assert f"names the exam, to be looked at by hand: {notes}" in to_lines(forget(LEFT, site))
    assert notes.exists()


def test_states_without_a_list_of_exams_are_told(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "private" / "study"
    save_state(folder, PrivateState(1, "", "x", {}, {"w": torch.zeros(1)}))
    lines = to_lines(forget(LEFT, site, [tmp_path / "private"]))
    assert f"nobody noted which exams trained these private weights: {folder}" in lines


@pytest.mark.parametrize(
    ("name", "reports"),
    [
        ("471101_left", "A;U;Linke Mamma;Rechte Mamma\r\n4711;1;;rechts\r\n4711;2;l;r\r\n"),
        ("471101", "A;U;Linke Mamma;Rechte Mamma\r\n4711;2;l;r\r\n"),
    ],
)
def test_the_uka_layouts_report_of_one_breast_is_emptied_and_of_both_goes(
    name: str, reports: str, tmp_path: Path
) -> None:
    head = "AnforderungsNr;UntersuchungsNr;Linke Mamma;Rechte Mamma\r\n"
    for side in ("left", "right"):
        (tmp_path / "data_unilateral" / f"471101_{side}").mkdir(parents=True)
    tables = tmp_path / "metadata"
    tables.mkdir()
    (tables / "split_regex.csv").write_text("UID,Split\n471101_left,train\n471101_right,train\n", "utf-8")
    (tables / "mrt-befund.csv").write_bytes((head + "4711;1;links;rechts\r\n4711;2;l;r\r\n").encode())
    forget(name, tmp_path)
    written = (tables / "mrt-befund.csv").read_bytes().decode()
    assert written == reports.replace("A;U;Linke Mamma;Rechte Mamma\r\n", head)
    kept = uids_of(tables / "split_regex.csv")
    assert kept == ([] if name == "471101" else ["471101_right"])


def test_a_damaged_list_of_trained_exams_stops_it(site: Path, trained: Path) -> None:
    (trained / "sites" / "KLINIK" / "run" / EXAMS_FILE).write_text("[1")
    with pytest.raises(StateError, match="is damaged"):
        forget(LEFT, site, [trained])
    assert (site / "data_unilateral" / LEFT).is_dir()


def test_marking_twice_keeps_the_first_round(tmp_path: Path) -> None:
    (tmp_path / EXAMS_FILE).write_text('{"a": 2, "b": 3}')
    mark_forgotten(tmp_path, {"a": "hash"})
    mark_forgotten(tmp_path, {"a": "hash"})
    assert json.loads((tmp_path / MARKS_FILE).read_text()) == {"hash": 2}
    assert trained_exams(tmp_path) == {"b": 3}


def test_a_site_in_a_federation_notes_what_it_trained_with_and_is_told(hospital: Any) -> None:
    assert hospital.train().has_content()
    uid = "PAT47110000_left"
    forget(uid, hospital.folder, [hospital.private])
    assert naming(hospital.private, uid) == []
    assert hospital.train(2, 1).has_content()
    log = (hospital.private / "site.log").read_text("utf-8").splitlines()
    told = "round 2: private weights were trained with 1 exam that was forgotten since"
    assert [line.endswith(told) for line in log] == [False, True, False]
    [study] = [path for path in hospital.private.iterdir() if (path / EXAMS_FILE).is_file()]
    assert uid not in trained_exams(study)
    assert set(trained_exams(study).values()) == {1}


def test_a_site_does_not_train_while_an_exam_is_being_forgotten(hospital: Any) -> None:
    federation = replace(hospital.settings.federation, round_timeout_s=0.1)
    busy = replace(hospital, settings=replace(hospital.settings, federation=federation))
    with only_process(hospital.private / "lock", what="forgets an exam"):
        reply = busy.train()
    line = str(reply.content["refused"])
    assert "works with the exams of site 'H'" in line
    assert hospital.train().has_content()


def test_the_private_folder_of_a_node_is_searched(command: Command, site: Path, tmp_path: Path) -> None:
    node, private = tmp_path / "node", tmp_path / "node" / "private"
    private.mkdir(parents=True)
    for name in ("site.log", "site.log.1"):
        (private / name).write_text(f"{LEFT} left out\nround 1: 8 steps\n")
    write_node(node, NodeSettings(name="H", server="s:1", data=site, private=private))
    code, told, error = command(main, "forget", LEFT, "--site", site, "--node", node)
    assert (code, error) == (0, "")
    assert "were not searched" not in told
    for name in ("site.log", "site.log.1"):
        assert (private / name).read_text() == "round 1: 8 steps\n"
    assert "were not searched" in command(main, "forget", LEFT, "--site", site)[1]
    private.rename(tmp_path / "moved")
    code, _, error = command(main, "forget", LEFT, "--site", site, "--node", node)
    assert code == 2
    assert "private of the node's site.yaml must be a folder" in error


def test_the_command_removes_and_says_what_it_cannot(site: Path, command: Command) -> None:
    code, told, error = command(main, "forget", LEFT, "--site", site, "--dry-run")
    assert (code, error) == (0, "")
    assert (site / "data_unilateral" / LEFT).is_dir()
    code, told, error = command(main, "forget", LEFT, "--site", site)
    assert (code, error) == (0, "")
    assert "not unlearned" in told
    assert not (site / "data_unilateral" / LEFT).exists()
    code, told, error = command(main, "forget", "nobody", "--site", site)
    assert (code, told) == (1, "")
    assert error.startswith("climb-site: site 'KLINIK' has no trace of exam 'nobody'")


# By the numbers that a patient knows


ACCESSION, PATIENT = "A-4711-Q", "0008150815"


@pytest.fixture
def named(site: Path) -> tuple[str, str]:
    """Two exams of one patient under their pseudonyms; the first came under ACCESSION."""
    key = site_key(site)
    exams = (pseudonym(key, "accession", ACCESSION), pseudonym(key, "accession", "another"))
    tables = site / "metadata_unilateral"
    for old, new in zip((WHOLE, "KLINIK0001"), exams, strict=True):
        for folder in ("data", "data_unilateral"):
            for path in sorted((site / folder).glob(f"{old}*")):
                path.rename(path.with_name(path.name.replace(old, new)))
        for table in tables.iterdir():
            table.write_text(table.read_text("utf-8").replace(old, new), "utf-8")
    path = tables / "annotation.csv"
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    place = lines[0].index("PatientID")
    for line in lines[1:]:
        if line[0].startswith(exams):
            line[place] = patient_id(PATIENT, key)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)
    return exams


def test_an_exam_is_forgotten_by_its_accession_number(
    site: Path, named: tuple[str, str], command: Command
) -> None:
    code, out, err = command(main, "forget", "--accession", ACCESSION, "--site", site)
    assert (code, err) == (0, "")
    assert ACCESSION not in out
    assert naming(site, named[0]) == []
    assert naming(site, named[1])
    assert naming(site, ACCESSION) == []
    again, out, _ = command(main, "forget", "--accession", ACCESSION, "--site", site)
    assert again == 0
    assert "it was forgotten before" in out


def test_all_exams_of_a_patient_are_forgotten_by_her_number(
    site: Path, named: tuple[str, str], command: Command
) -> None:
    before = everything(site)
    code, out, _ = command(main, "forget", "--patient", PATIENT, "--site", site, "--dry-run")
    assert code == 0
    assert all(f"would be removed of {exam}:" in out for exam in named)
    assert everything(site) == before
    code, out, err = command(main, "forget", "--patient", PATIENT, "--site", site)
    assert (code, err) == (0, "")
    assert PATIENT not in out
    assert [naming(site, word) for word in (*named, PATIENT)] == [[], [], []]
    assert len(read_exams(site, SETTINGS, need_reports=True, need_findings=True).exams) == 4


def told_by_provenance(folder: Path, patient: str) -> None:
    folder.mkdir(parents=True)
    (folder / "Pre.nii.gz").write_bytes(b"voxels")
    (folder / "provenance.json").write_text(json.dumps({"patient": patient}), "utf-8")


@pytest.mark.parametrize(
    "folder",
    ["data/{}", "data_unilateral/{}_left", "data/.{}.unfinished", "data_unilateral/.{}_right.forgotten"],
)
def test_an_exam_without_rows_is_found_by_its_provenance(
    folder: str, site: Path, named: tuple[str, str], command: Command
) -> None:
    told_by_provenance(site / folder.format("torn"), patient_id(PATIENT, site_key(site)))
    code, out, err = command(main, "forget", "--patient", PATIENT, "--site", site)
    assert (code, err) == (0, "")
    assert "removed of torn:" in out
    assert [naming(site, exam) for exam in ("torn", *named)] == [[], [], []]


def test_her_provenance_is_enough_where_there_is_no_table(site: Path) -> None:
    shutil.rmtree(site / "metadata_unilateral")
    told_by_provenance(site / "data" / "killed", patient_id(PATIENT, site_key(site)))
    told_by_provenance(site / "data" / "another", patient_id("0816", site_key(site)))
    assert exams_of_patient(PATIENT, site, [].append) == ["killed"]


@pytest.mark.usefixtures("named")
def test_exams_that_name_no_patient_are_told_and_stay(site: Path, command: Command) -> None:
    """By `--series`, by an earlier version, without a patient number, or a killed removal's rest."""
    (site / "data" / "series").mkdir()
    told_by_provenance(site / "data" / "nameless", "nameless")
    told_by_provenance(site / "data_unilateral" / ".rest_left.old", "")
    (site / "data" / "damaged").mkdir()
    (site / "data" / "damaged" / "provenance.json").write_text("{")
    (site / "data" / ".snapshot").mkdir()
    (site / "data" / "notes.txt").touch()
    line = (
        "exams that name no patient, to be looked at by UID: 6 "
        "(KLINIK0002, KLINIK0003, damaged, nameless, rest, ...)"
    )
    code, out, err = command(main, "forget", "--patient", PATIENT, "--site", site)
    assert (code, err) == (0, "")
    assert out.splitlines().count(line) == 1
    code, out, err = command(main, "forget", "--patient", PATIENT, "--site", site)
    assert (code, out) == (1, "")
    assert err == f"climb-site: site 'KLINIK' names no exam of that patient number, but has {line}\n"
    assert (site / "data" / "series").is_dir()


def test_that_a_patient_has_no_exam_is_said_where_every_exam_names_another(site: Path) -> None:
    for table in (site / "metadata_unilateral").iterdir():
        table.write_text(table.read_text("utf-8").replace(",KLINIK", ",public-"), "utf-8")
    with pytest.raises(ForgetError, match=r"^site 'KLINIK' has no exam of that patient number$"):
        exams_of_patient(PATIENT, site)
    assert exams_of_patient("public-0001", site) == ["KLINIK0001"]


@pytest.mark.parametrize("folder", ["data/S7_left", "data_unilateral/S7"])
def test_a_folder_whose_name_misses_or_tells_a_side_goes_too(folder: str, site: Path) -> None:
    told_by_provenance(site / folder, patient_id(PATIENT, site_key(site)))
    [exam] = exams_of_patient(PATIENT, site, [].append)
    forget(exam, site)
    assert not (site / folder).exists()


@pytest.mark.usefixtures("named")
def test_a_number_that_nobody_has_changes_nothing_and_is_not_repeated(site: Path, command: Command) -> None:
    before = everything(site)
    for option in ("--accession", "--patient"):
        code, out, err = command(main, "forget", option, "Q-NOBODY", "--site", site)
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert "Q-NOBODY" not in err
    assert everything(site) == before
    (site / "private" / "pseudonym.key").unlink()
    code, _, err = command(main, "forget", "--accession", ACCESSION, "--site", site)
    assert code == 1
    assert "private/pseudonym.key: name its exams by their UID" in err
    assert not (site / "private" / "pseudonym.key").exists()


@pytest.mark.parametrize(
    "exam", [[], [LEFT, "--accession", "1"], ["--accession", "1", "--patient", "1"], ["--patient", ""]]
)
def test_exactly_one_name_or_number_is_wanted(site: Path, exam: list[str], command: Command) -> None:
    code, out, err = command(main, "forget", *exam, "--site", site)
    assert code in (1, 2)
    assert (out, err.count("\n")) == ("", 1)
