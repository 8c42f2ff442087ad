"""`climb-site evaluate`: trained weights on a site's own labelled exams."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from client.cli import main
from client.train import train_alone
from climb_model.report.evaluated import write_evaluation_report
from climb_model.runs import RunFolder
from configs.load import load_settings

Command = Callable[..., tuple[int, str, str]]

SETTINGS = load_settings(
    "debug",
    ["training.num_threads=1", "evaluation.findings=[Zyste, Karzinom]", "evaluation.bootstrap=20"],
)


@pytest.fixture
def site(make_site: Callable[..., Path], tmp_path: Path) -> Path:
    """Twelve test exams, six of them made validation exams."""
    folder = make_site(tmp_path / "data", "KLINIK", exams=48)
    table = folder / "metadata_unilateral" / "split.csv"
    lines = table.read_text("utf-8").splitlines()
    tests = [number for number, line in enumerate(lines) if ",test," in line]
    for number in tests[:6]:
        lines[number] = lines[number].replace(",test,", ",val,")
    table.write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Path:
    """What this site trained alone."""
    train_alone(site, SETTINGS, tmp_path / "run")
    return tmp_path / "run"


def one_line(found: tuple[int, str, str], code: int) -> str:
    lines = [line for line in found[2].splitlines() if line.startswith("climb-site: ")]
    assert (found[0], found[1], len(lines)) == (code, "", 1)
    return lines[0].removeprefix("climb-site: ")


def test_its_own_training_is_measured_as_at_its_end(
    site: Path, run: Path, command: Command, tmp_path: Path
) -> None:
    kept = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, told, _ = command(main, "evaluate", site, "--run", run, "--out", tmp_path / "out")
    assert code == 0
    ended = json.loads((run / "summary.json").read_text("utf-8"))
    found = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    told_of = ("rounds", "config_hash", "fingerprint", "auc_table", "operating", "validation_exams")
    told_of += ("mean_auc", "mean_auc_ci_low", "mean_auc_ci_high", "measured_on", "central_exams")
    assert {key: ended[key] for key in told_of} == {key: found[key] for key in told_of}
    predictions = [(folder / "predictions.csv").read_text("utf-8") for folder in (run, tmp_path / "out")]
    assert predictions[0] == predictions[1]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == kept  # tokens are used again
    assert told.startswith("6 exams of KLINIK, split test\n")
    assert "thresholds: the smallest of specificity 0.90 on 6 validation exams" in told
    lines = told.splitlines()
    assert lines[-2:] == [
        "Research use, not a medical device.",
        f"report: {tmp_path / 'out' / 'report.html'}",
    ]
    row = found["operating"]["Zyste"]
    _, shown = (line.split() for line in lines if line.startswith("Zyste"))
    values = [row[key] for key in ("brier", "calibration_error", "threshold", "sensitivity", "specificity")]
    assert shown == ["Zyste", *(f"{value:.3f}" for value in values)]


def test_a_federations_weights_are_measured_from_their_file_alone(
    site: Path, run: Path, command: Command, tmp_path: Path
) -> None:
    """Nothing but the file and its settings is needed, and nothing is kept."""
    given = tmp_path / "given"
    given.mkdir()
    for name in ("shared.safetensors", "config.yaml"):
        (given / name).write_bytes((run / name).read_bytes())
    before = {path for path in tmp_path.rglob("*")}
    code, told, _ = command(main, "evaluate", site, "--shared", given / "shared.safetensors")
    assert code == 0
    assert {path for path in tmp_path.rglob("*")} == before
    assert told == command(main, "evaluate", site, "--run", run)[1]


def test_another_split_is_measured_without_thresholds(site: Path, run: Path, command: Command) -> None:
    code, told, _ = command(main, "evaluate", site, "--run", run, "--split", "val")
    assert code == 0
    assert told.startswith("6 exams of KLINIK, split val\n")
    assert "no validation exams beside the reported ones: no thresholds" in told


def test_a_finding_without_cases_is_named_as_undefined(site: Path, run: Path, command: Command) -> None:
    table = site / "metadata_unilateral" / "findings.csv"
    head, *rows = table.read_text("utf-8").splitlines()
    table.write_text("\n".join([head, *(row[: row.rindex(",")] + ",0" for row in rows)]) + "\n", "utf-8")
    told = command(main, "evaluate", site, "--run", run)[1]
    assert "undefined, without positive or negative exams: Karzinom" in told


def test_the_page_of_an_evaluation_is_whole_and_names_no_exam(
    site: Path, run: Path, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command(main, "evaluate", site, "--run", run, "--out", out)
    page = (out / "report.html").read_text("utf-8")
    for text in ("evaluation on KLINIK", "not a medical device", "AUC of each finding", "ROC curves"):
        assert text in page
    assert "Calibration and thresholds" in page
    assert "_left" not in page
    assert write_evaluation_report(out).read_text("utf-8") == page


def test_weights_that_are_no_file_are_refused(site: Path, run: Path, command: Command) -> None:
    shared = run / "shared.safetensors"
    line = one_line(command(main, "evaluate", site, "--shared", run), 1)
    assert line == f"{run} is a folder: give the file shared.safetensors in it"
    line = one_line(command(main, "evaluate", site, "--shared", run / "no"), 1)
    assert line == f"{run / 'no'} is missing: a run writes it when it has finished"
    shared.write_bytes(shared.read_bytes()[:50])
    line = one_line(command(main, "evaluate", site, "--shared", shared), 1)
    assert line == f"{shared} is damaged or no safetensors file"


def test_other_settings_or_encoders_are_refused(site: Path, run: Path, command: Command) -> None:
    shared, config = run / "shared.safetensors", run / "config.yaml"
    folder = RunFolder.open(run)
    folder.write_shared(load_file(shared), 2, {"vision": "0" * 64})
    assert "was trained with other frozen parts" in one_line(
        command(main, "evaluate", site, "--shared", shared), 1
    )
    config.write_text(config.read_text("utf-8").replace("seed: 0\n", "seed: 1\n"), "utf-8")
    line = one_line(command(main, "evaluate", site, "--shared", shared), 1)
    assert line.startswith(f"{shared} was trained with settings ")
    assert "was changed after the run began" in one_line(command(main, "evaluate", site, "--run", run), 1)


def test_an_unfinished_training_is_refused(site: Path, run: Path, command: Command) -> None:
    (run / "shared.safetensors").unlink()
    line = one_line(command(main, "evaluate", site, "--run", run), 1)
    assert line.endswith("shared.safetensors is missing: a run writes it when it has finished")


def test_without_findings_or_labels_and_without_reports_there_is_nothing_to_measure(
    site: Path, run: Path, command: Command
) -> None:
    (site / "metadata_unilateral" / "reports.csv").unlink()
    table = site / "metadata_unilateral" / "findings.csv"
    head, *rows = table.read_text("utf-8").splitlines()
    table.write_text("\n".join([head, *(f"{row.split(',')[0]},," for row in rows)]) + "\n", "utf-8")
    line = one_line(command(main, "evaluate", site, "--run", run), 1)
    assert line == "site 'KLINIK' has no labelled exam in split 'test'"
    table.unlink()
    line = one_line(command(main, "evaluate", site, "--run", run), 1)
    assert line == "site 'KLINIK' has no findings (findings.csv or its columns are missing)"


def test_folders_are_checked_before_anything_is_measured(
    site: Path, run: Path, command: Command, tmp_path: Path
) -> None:
    none = tmp_path / "none"
    line = one_line(command(main, "evaluate", none, "--run", run), 2)
    assert line == f"SITE_DIR must be a folder, got {none}, where there is nothing"
    line = one_line(command(main, "evaluate", site, "--run", run, "--out", run), 2)
    assert line == f"--out must be a new folder, got {run}, which is there already"
    line = one_line(command(main, "evaluate", site, "--run", none), 2)
    assert line == f"--run must be a folder, got {none}, where there is nothing"


def test_it_measures_one_thing(site: Path, run: Path, command: Command) -> None:
    code, _, error = command(main, "evaluate", site)
    assert (code, error.count("\n")) == (2, 1)
    assert "one of the arguments --shared --run is required" in error
    code, _, error = command(main, "evaluate", site, "--run", run, "--shared", run / "shared.safetensors")
    assert (code, error.count("\n")) == (2, 1)
    assert "not allowed with argument" in error
