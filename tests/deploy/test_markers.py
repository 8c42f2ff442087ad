"""Words planted wherever a hospital keeps something: none may be on the wire or at the coordinator.

Three sites: one of an import from DICOM, one with a damaged exam, one that fails in every way it can. All
that passes between them and the server is read behind the TLS, as the server reads it.
"""

from __future__ import annotations

import base64
import csv
import shutil
import signal
import ssl
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pydicom
import pytest
from harness import Federation, Hospitals, script
from processes import signal_quietly, wait_until
from relay import Relay, recorded, server_context

pytestmark = pytest.mark.deploy

STUDY = "study"
MARKERS = {
    "report": "Wunderwortbefund",
    "patient": "Wunderwortname",
    "institution": "Wunderworthaus",
    "description": "Wunderwortstudie",
    "device": "Wunderwortgeraet",
    "comment": "Wunderwortkommentar",
    "folder": "Wunderwortordner",
    "private folder": "Wunderwortprivat",
    "exam": "Wunderwortexam",
    "environment": "Wunderwortumgebung",
    "exception": "Wunderwortfehler",
}
TAGS = {
    "PatientName": "patient",
    "InstitutionName": "institution",
    "StudyDescription": "description",
    "StationName": "device",
    "PatientComments": "comment",
}
COMMON = "Wunderwort"
"""What all markers begin with."""


def forms(word: str) -> Iterator[bytes]:
    """A word as it may be written: in two encodings, in base64 wherever it begins, in hexadecimal."""
    for plain in (word.encode(), word.encode("utf-16-le"), word.lower().encode(), word.upper().encode()):
        yield plain
        yield plain.hex().encode()
        for before in range(3):  # the characters that depend on the word alone
            code = base64.b64encode(bytes(before) + plain)
            yield code[4 if before else 0 : len(code) - len(code) % 4 - 4]


def holders(content: bytes) -> list[str]:
    """Markers that are somewhere in these bytes, as they are or in a compressed part."""
    whole = [content, *inflated(content)]
    return [
        name for name, word in MARKERS.items() if any(form in part for form in forms(word) for part in whole)
    ]


def inflated(content: bytes) -> Iterator[bytes]:
    """What zlib, gzip and ZIP have made smaller in these bytes."""
    for start, window in ((b"\x1f\x8b\x08", 31), (b"\x78\x9c", 15), (b"\x78\xda", 15), (b"PK\x03\x04", -15)):
        place = content.find(start)
        while place >= 0:
            begin = place
            if window < 0:
                begin += 30 + int.from_bytes(content[place + 26 : place + 28], "little")
                begin += int.from_bytes(content[place + 28 : place + 30], "little")
            with suppress(zlib.error):
                yield zlib.decompressobj(window).decompress(content[begin:], 100_000_000)
            place = content.find(start, place + 1)


def test_every_form_of_a_word_is_found() -> None:
    word = MARKERS["report"]
    for before in range(4):
        text = b"x" * before + word.encode() + b" und mehr"
        for content in (text, base64.b64encode(text), text.hex().encode(), zlib.compress(text)):
            assert holders(b"---" + content + b"---") == ["report"], (before, content)
    assert holders(b"Wunderwor") == []


@pytest.fixture(scope="module")
def marked(
    tmp_path_factory: pytest.TempPathFactory, hospitals: Hospitals, make_site: Callable[..., Path]
) -> Hospitals:
    """Three hospitals full of markers."""
    root = tmp_path_factory.mktemp("marked") / MARKERS["folder"]
    root.mkdir()
    sites = {
        "A": imported(root),
        "B": make_site(root / "B", MARKERS["exam"], exams=48),
        "C": make_site(root / "C", MARKERS["exam"], exams=48),
    }
    for name in ("B", "C"):
        reports = sites[name] / "metadata_unilateral" / "reports.csv"
        with reports.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        for row in rows[1:]:
            row[1] += f" {MARKERS['report']} Karzinom."
        with reports.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    damaged = sorted((sites["B"] / "data_unilateral").iterdir())[0]
    (damaged / "Pre.nii.gz").write_bytes(MARKERS["exception"].encode())
    return Hospitals(sites, hospitals.central)


def imported(root: Path) -> Path:
    """A hospital's folder after an import from DICOM with markers in tags and reports."""
    data, dicom, site = root / "made", root / "dicom", root / "imported"
    sizes = ("--sites", "1", "--exams", "20", "--central-exams", "20", "--workers", "1")
    for command in (
        ("climb-sim", "make-data", data, *sizes),
        ("climb-sim", "make-dicom", dicom, "--data", data, "--workers", "1"),
    ):
        subprocess.run([script(command[0]), *map(str, command[1:])], check=True, capture_output=True)
    (hospital,) = [folder for folder in dicom.glob("SITE_*")]
    for path in (hospital / "dicom").rglob("*"):
        if path.is_file():
            file = pydicom.dcmread(path, force=True)
            for tag, marker in TAGS.items():
                setattr(file, tag, MARKERS[marker])
            file.save_as(path)
    table = hospital / "reports.csv"
    text = table.read_bytes().replace(b"Mamma ", f"Mamma {MARKERS['report']} ".encode())
    assert MARKERS["report"].encode() in text
    table.write_bytes(text)
    importing = [
        script("climb-site"),
        "import",
        hospital / "dicom",
        site,
        "--reports",
        table,
        "--mapping",
        hospital / "mapping.yaml",
        "--workers",
        "1",
    ]
    done = subprocess.run([str(word) for word in importing], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return site


def test_no_marker_is_on_the_wire_or_at_the_coordinator(
    make_federation: Callable[..., Federation], marked: Hospitals, tmp_path: Path
) -> None:
    for site, folder in marked.sites.items():
        content = b"".join(path.read_bytes() for path in folder.rglob("*.csv"))
        assert "report" in holders(content), site
    federation = make_federation(hospitals=marked)
    federation.start_server()
    relays: dict[str, Relay] = {}
    with ExitStack() as stack:
        for site in marked.sites:
            relays[site] = stack.enter_context(recording(federation, tmp_path / "wire" / site))
            private = tmp_path / MARKERS["private folder"] / site
            server = f"127.0.0.1:{relays[site].port}"
            federation.join(site, server=server, private=private)
            federation.change_policy(site, minimum={"exams": 2, "tokens": 1, "batch_tokens": 1, "steps": 1})
            federation.start_site(
                site, CLIMB_MARKER=MARKERS["environment"], OMP_MARKER=MARKERS["environment"]
            )
        federation.wait_online(*marked.sites)
        more = (
            "federation.num_rounds=6",
            "federation.min_sites=1",
            "training.steps_per_round=40",
            "evaluation.max_unknown_share=0.99",
        )
        federation.submit(STUDY, *more, sites=3)
        federation.wait_round(STUDY, 0, 300)
        fail_in_every_way(federation)
        federation.wait_end(STUDY, 600)
    history = federation.history(STUDY)
    told = [entry["reason"] for record in history for entry in record["rejected"] if entry["site"] == "C"]
    print("\n".join(told))  # noqa: T201
    assert len(told) >= 2, "site C should have failed in more than one round"
    for site in ("A", "B"):
        assert any(site in record["sites"] for record in history), site

    wire = {site: recorded(tmp_path / "wire" / site) for site in marked.sites}
    for site, content in wire.items():
        assert b"num-examples" in content, "the recorder should have read behind the TLS"
        assert b"fusion.class_token" in content, site
        assert holders(content) == [], site
    for path in (*everything(federation.home), *everything(federation.out(STUDY)), federation.server.log):
        assert holders(path.read_bytes()) == [], path
    own = b"".join(path.read_bytes() for path in everything(tmp_path / MARKERS["private folder"]))
    at_stake = {"exam", "exception", "folder"}
    assert at_stake <= set(holders(own)), "what is kept at the site should name its own files and errors"


def fail_in_every_way(federation: Federation) -> None:
    """Let site C's app be killed in one round, and stumble over its own folders in the next ones."""

    def at_work() -> bool:
        for pid in federation.app_processes("C"):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert MARKERS["environment"].encode() in environment, "it should have been at stake"
            signal_quietly(pid, signal.SIGKILL)
            return True
        return False

    wait_until(at_work, 300, "site C's app is killed")
    federation.wait_round(STUDY, 1)
    state = federation.private("C") / STUDY
    blocked = [state / f"round-{number:04d}.pt" for number in range(2, 7)]
    for path in blocked:  # a folder where the state of a round is to be written
        (path / MARKERS["exception"]).mkdir(parents=True, exist_ok=True)
    federation.wait_round(STUDY, 3)
    for path in blocked:
        shutil.rmtree(path, ignore_errors=True)
    table = federation.hospitals.sites["C"] / "metadata_unilateral" / "split.csv"
    table.write_text(f"{MARKERS['exception']},Split\n{MARKERS['exception']}\n", encoding="utf-8")


def recording(federation: Federation, folder: Path) -> Relay:
    """A relay that shows the server's own certificate, and keeps what passes."""
    folder.mkdir(parents=True)
    return Relay(
        ("127.0.0.1", federation.port),
        outside=server_context(
            federation.home / "tls" / "server.crt", federation.home / "tls" / "server.key"
        ),
        inside=ssl.create_default_context(cafile=str(federation.home / "authority" / "ca.crt")),
        server_name=federation.host,
        record=folder,
    )


def everything(folder: Path) -> list[Path]:
    """All files below a folder."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]
