"""`climb-site check`: exit codes, the table, JSON, and what is never shown."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.cli import main
from client.egress.policy import Minimum, default_policy, write_policy
from client.node.settings import NodeSettings, write_node

Command = Callable[..., tuple[int, str, str]]
SETTINGS = ("--preset", "debug", "evaluation.findings=[Zyste, Karzinom]", "training.num_threads=1")
MARKERS = ("PAT4711", "Geheimwort", "Krankenhausordner", "Musterfrau")


@pytest.fixture
def folder(make_site: Callable[..., Path], tmp_path: Path) -> Path:
    """A site whose UIDs, patients, reports, columns and paths carry words that are nobody's business."""
    folder = make_site(tmp_path / "Krankenhausordner", "PAT4711", exams=60)
    reports = folder / "metadata_unilateral" / "reports.csv"
    with reports.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        row[1] = f"Die Mamma {'links' if 'left' in row[0] else 'rechts'}. {row[1]}"
    with reports.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def break_it(folder: Path) -> None:
    images, tables = folder / "data_unilateral", folder / "metadata_unilateral"
    exams = sorted(images.iterdir())
    path = exams[0] / "Pre.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    shutil.copy(exams[1] / "T2.nii.gz", exams[2] / "T2.nii.gz")
    shutil.rmtree(exams[3])
    (exams[4] / "Musterfrau.pdf").write_bytes(b"")
    (exams[5] / "Pre.nii.gz").write_bytes(b"Musterfrau" * 100)
    reports = tables / "reports.csv"
    text = reports.read_text("utf-8").splitlines()
    text[7] = f"{text[7].split(',')[0]},Frau Musterfrau geb. 12.03.1956 Tel. 0241 8089000 Geheimwort links."
    text[8] = text[8].split(",")[0] + ",Geheimwort Musterfrau"
    text[9] = text[9].replace("_", "_Musterfrau_")
    reports.write_text("\n".join([*text, "PAT4711,Geheimwort,Musterfrau", text[2]]), "utf-8")
    split = tables / "split.csv"
    lines = split.read_text("utf-8").splitlines()
    lines[3] = lines[3].replace("train", "Musterfrau")
    lines[4] = lines[4].replace("train", "test")
    split.write_text("\n".join(lines), "utf-8")
    (tables / "findings.csv").write_text("Musterfrau,Geheimwort\nPAT4711,1\n", "utf-8")


def test_a_sound_site_exits_with_0(command: Command, folder: Path) -> None:
    code, out, err = command(main, "check", folder, *SETTINGS)
    assert (code, err) == (0, "")
    assert out.startswith("60 exam folders; 60 usable exams of 30 patients: train 46, val 0, test 14\n")
    lesions, positives = out.splitlines()[1:3]
    assert re.fullmatch(r"Lesion 0/1/2: train \d+/\d+/\d+, val 0/0/0, test \d+/\d+/\d+", lesions)
    assert sum(map(int, re.findall(r"\d+", lesions)[3:])) == 60
    assert re.fullmatch(r"positive in train/val/test: Zyste \d+/0/\d+, Karzinom \d+/0/\d+", positives)
    assert "kinds of errors: 0, of warnings: " in out
    assert ": nothing must be mended\n" in out
    assert "machine.time" in out


def test_a_broken_site_exits_with_1_and_names_nobody(command: Command, folder: Path) -> None:
    break_it(folder)
    code, out, err = command(main, "check", folder, *SETTINGS)
    assert (code, err) == (1, "")
    told = (
        "files.truncated",
        "files.same_pixels",
        "tables.no_folder",
        "reports.identifiers",
        "files.unknown",
    )
    assert [one for one in told if one not in out] == []
    assert not [marker for marker in MARKERS if marker in out]


def test_json_is_one_object_that_names_nobody(command: Command, folder: Path) -> None:
    break_it(folder)
    code, out, err = command(main, "check", folder, "--json", "--quick", *SETTINGS)
    assert (code, err) == (1, "")
    told = json.loads(out)
    assert set(told) == {"errors", "warnings", "notes", "exams"}
    assert told["exams"]["folders"] == 59
    found = {each["code"]: each["count"] for each in told["errors"]}
    assert found["files.not_nifti"] == 1
    assert found["tables.bad_split"] == 1
    assert all(set(each) == {"code", "count", "what", "advice"} for each in told["errors"] + told["warnings"])
    assert not [marker for marker in MARKERS if marker in out]


def test_identifiers_are_shown_on_request_and_reports_never(command: Command, folder: Path) -> None:
    break_it(folder)
    for options in (("--show-ids",), ("--show-ids", "--json")):
        _, out, _ = command(main, "check", folder, "--quick", *options, *SETTINGS)
        assert "PAT47110002_right/Pre.nii.gz" in out
        assert "Musterfrau.pdf" in out
        assert "Geheimwort" not in out
        assert "1956" not in out
        assert "Krankenhausordner" not in out


def test_the_second_check_reads_no_pixel(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from climb_model.checking import pixels

    first = command(main, "check", folder, "--json", "--workers", 1, *SETTINGS)
    read: list[Any] = []
    monkeypatch.setattr(pixels, "look_at", read.append)
    second = command(main, "check", folder, "--json", "--workers", 1, *SETTINGS)
    assert read == []
    kinds = [[each["code"] for each in json.loads(out)["notes"]] for _, out, _ in (first, second)]
    assert kinds[0] == kinds[1]


def test_quick_says_what_it_left_out(command: Command, folder: Path) -> None:
    code, out, _ = command(main, "check", folder, "--quick", *SETTINGS)
    assert code == 0
    assert "files.not_read" in out
    assert not (folder / "private").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--server", "file:///etc/passwd"), "must begin with http:// or https://, got 'file:///etc/passwd'"),
        (("--preset", "clumb"), "there is no preset 'clumb'; did you mean 'climb'?"),
        (("--workers", "0"), "must be a whole number >= 1, got '0'"),
        (("--weights", "nowhere"), "--weights must be a folder, got nowhere, where there is nothing"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    arguments: tuple[str, ...], line: str, command: Command, tmp_path: Path
) -> None:
    code, out, err = command(main, "check", tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1


def test_a_node_names_its_private_folder_and_its_policy(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    node, private = tmp_path / "node", tmp_path / "elsewhere"
    private.mkdir(mode=0o755)
    write_node(node, NodeSettings(name="H", server="s:1", data=folder, private=private))
    policy = replace(default_policy(("ab" * 32,)), minimum=Minimum(exams=47))
    write_policy(node / "policy.yaml", policy)
    _, alone, _ = command(main, "check", folder, "--quick", "--json", *SETTINGS)
    _, with_node, _ = command(main, "check", folder, "--quick", "--json", "--node", node, *SETTINGS)
    codes = [
        {each["code"] for kind in ("errors", "warnings") for each in json.loads(out)[kind]}
        for out in (alone, with_node)
    ]
    new = codes[1] - codes[0]
    assert "machine.private_mode" in new
    assert any("exams" in code for code in new - {"machine.private_mode"}), new
