"""Bundles: equal ones, every kind of change, every trick with a zip, and the admin's approvals."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from client.node.bundle import (
    MAX_WAITING,
    Approvals,
    BundleError,
    Difference,
    bundle_digest,
    contents_of_fab,
    difference,
    files_of_fab,
    own_contents,
    own_files,
    program_digest,
    unified_diff,
    unpack,
    version_of,
)

FILES = {
    "pyproject.toml": '[project]\nversion = "1.2"\n',
    "client/app.py": "a = 1\n",
    "configs/a.yaml": "b: 2\n",
}
MOMENT = "2026-01-01T00:00:00+00:00"


def fab(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return packed.getvalue()


@pytest.fixture
def own_app(tmp_path: Path) -> Path:
    """A small folder that Flower makes a bundle of."""
    root = tmp_path / "app"
    for path, text in {
        "pyproject.toml": '[project]\nname = "own-app"\nversion = "1.2"\nlicense = "MIT"\n'
        '[tool.flwr.app]\npublisher = "climb"\nfab-include = ["client/*.py", "configs/**/*.yaml"]\n'
        '[tool.flwr.app.components]\nserverapp = "server.app:app"\nclientapp = "client.app:app"\n',
        ".gitignore": "client/left_out.py\n",
        "client/app.py": "app = 1\n",
        "client/left_out.py": "",
        "client/node/gate.py": "",
        "configs/deep/a.yaml": "a: 1\n",
        "runs/client/stray.py": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_own_files_are_those_of_flowers_build(own_app: Path) -> None:
    built = files_of_fab(build_fab_from_disk(own_app))
    assert own_files(own_app) == built
    assert list(built) == ["client/app.py", "configs/deep/a.yaml", "pyproject.toml"]
    assert built["client/app.py"] == hashlib.sha256(b"app = 1\n").hexdigest()


def test_the_checkouts_own_bundle_holds_the_apps_and_no_guard() -> None:
    files = own_files()
    assert {"client/app.py", "server/app.py", "climb_model/sharing.py"} <= set(files)
    assert not [path for path in files if path.startswith(("client/node", "client/egress", "server/deploy"))]


def test_without_pyproject_there_is_no_own_bundle(own_app: Path) -> None:
    (own_app / "pyproject.toml").unlink()
    with pytest.raises(BundleError, match="a node starts from its image"):
        own_files(own_app)


def test_the_digest_is_of_paths_and_contents_not_of_the_packing() -> None:
    ours = bundle_digest(files_of_fab(fab(FILES)))
    assert bundle_digest(files_of_fab(fab(dict(reversed(FILES.items()))))) == ours
    assert bundle_digest(files_of_fab(fab(FILES | {".info/CONTENT": "x"}))) == ours


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (FILES | {"client/spy.py": ""}, Difference(("client/spy.py",), (), ())),
        ({k: v for k, v in FILES.items() if "yaml" not in k}, Difference((), ("configs/a.yaml",), ())),
        (FILES | {"client/app.py": "a = 2\n"}, Difference((), (), ("client/app.py",))),
        (FILES | {"pyproject.toml": "[project]\n"}, Difference((), (), ("pyproject.toml",))),
    ],
)
def test_every_change_is_found_and_changes_the_digest(files: dict[str, str], found: Difference) -> None:
    ours, theirs = files_of_fab(fab(FILES)), files_of_fab(fab(files))
    assert difference(ours, theirs) == found
    assert found.num_files == len(found.lines()) == 1
    assert bundle_digest(ours) != bundle_digest(theirs)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd.py",
        "../above.py",
        "client/../../above.py",
        "client/./app2.py",
        "client//app2.py",
        "client\\app2.py",
        "client/a\x00.py",
        "client/a\n.py",
        "client/spy.so",
        "client/__pycache__/app.cpython-311.pyc",
        "sitecustomize.pth",
        ".info/spy.so",
        "client/",
        "C:/a.py",
        "x/" * 20 + "a.py",
    ],
)
def test_a_name_outside_the_bundle_or_of_what_is_no_source_is_refused(name: str) -> None:
    packed = fab(FILES | {"client/abcdefgh.py": ""} if "\x00" in name else FILES | {name: ""})
    if "\x00" in name:  # zipfile itself cuts such a name when it writes
        packed = packed.replace(b"client/abcdefgh.py", b"client/a\x00.pyXXX.py")
    with pytest.raises(BundleError, match="is not allowed"):
        files_of_fab(packed)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["client/app.py", "client/App.py"])
def test_a_file_twice_is_refused(again: str) -> None:
    packed = io.BytesIO(fab(FILES))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(again, "b = 1\n")
    with pytest.raises(BundleError, match="twice"):
        files_of_fab(packed.getvalue())


def test_a_link_is_refused() -> None:
    packed = io.BytesIO(fab(FILES))
    with zipfile.ZipFile(packed, "a") as archive:
        info = zipfile.ZipInfo("client/link.py")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(BundleError, match="is a link"):
        files_of_fab(packed.getvalue())


def test_a_zip_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("client/big.py", b"\0" * 60_000_000)
    assert len(packed.getvalue()) < 100_000
    with pytest.raises(BundleError, match="more than 50000000 bytes unpacked"):
        files_of_fab(packed.getvalue())
    monkeypatch.setattr("client.node.bundle.MAX_FILES", 2)
    with pytest.raises(BundleError, match="3 files, at most 2"):
        files_of_fab(fab(FILES))
    monkeypatch.setattr("client.node.bundle.MAX_PACKED", 10)
    with pytest.raises(BundleError, match="at most 10 are taken"):
        files_of_fab(fab(FILES))


@pytest.mark.parametrize("content", [b"", b"no zip", fab(FILES)[:-30], fab({"client/app.py": ""})])
def test_what_is_no_bundle_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError):
        files_of_fab(content)


def test_what_is_unpacked_is_what_was_hashed_and_read_only(tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    unpack(fab(FILES | {".info/CONTENT": "x"}), folder)
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert {name: path.read_text() for name, path in found.items()} == FILES
    assert not [path for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o222]


def test_the_diff_shows_text_and_no_control_characters() -> None:
    theirs = contents_of_fab(fab(FILES | {"client/app.py": "a = 1\n\x1b[2Jb\n", "client/new.py": "n\n"}))
    lines = unified_diff(contents_of_fab(fab(FILES)), theirs)
    assert "--- image/client/app.py" in lines
    assert "+\\x1b[2Jb" in lines
    assert "--- /dev/null" in lines
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("client/app.py", "ä = 1\n".encode("utf-16")),
        ("client/app.py", b"# -*- coding: latin-1 -*-\ns = '\xe4'\n"),
        ("client/app.py", b"# coding: utf-7\n# +AAo-import os\n"),
        ("client/app.py", b"#!/usr/bin/python\n# vim: set fileencoding=rot13 :\n"),
        ("client/app.py", b"\r# coding: utf-7\r# +AAo-import os\r"),
        ("client/app.py", b"# coding: nothing\n"),
        ("configs/a.yaml", "a: 1\n".encode("utf-16")),
    ],
)
def test_what_is_not_the_text_that_is_shown_is_refused(name: str, data: bytes) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in FILES.items():
            archive.writestr(path, data if path == name else text)
    with pytest.raises(BundleError, match=f"{name} is not UTF-8"):
        files_of_fab(packed.getvalue())


@pytest.mark.parametrize("text", ["# coding: utf-8\n", "\ufeffa = 'ä'\n", "", "a = 1\n\n# coding: x\n"])
def test_utf_8_by_any_of_its_names_is_taken(text: str) -> None:
    assert "client/app.py" in files_of_fab(fab(FILES | {"client/app.py": text}))


def test_the_program_on_the_disk_is_known_by_all_its_files(own_app: Path) -> None:
    before = program_digest(own_app)
    (own_app / "client" / "cache.pyc").write_bytes(b"compiled")
    assert program_digest(own_app) == before
    for path in ("client/node/gate.py", "configs/deep/a.yaml", "pyproject.toml"):
        kept = (own_app / path).read_bytes()
        (own_app / path).write_bytes(kept + b"#")
        assert program_digest(own_app) != before
        (own_app / path).write_bytes(kept)
    (own_app / "client" / "new.py").touch()
    assert program_digest(own_app) != before


def test_the_version_is_told_in_plain_signs() -> None:
    assert version_of(contents_of_fab(fab(FILES))) == "1.2"
    strange = json.dumps("1.0 <b>" + "x" * 100)
    assert (
        version_of({"pyproject.toml": f"[project]\nversion = {strange}\n".encode()}) == "1.0??b?" + "x" * 33
    )
    assert version_of({"pyproject.toml": b"no toml"}) == ""


def test_a_bundle_waits_is_approved_and_withdrawn(tmp_path: Path) -> None:
    approvals, content = Approvals(tmp_path), fab(FILES)
    digest = bundle_digest(files_of_fab(content))
    approvals.wait(digest, content, Difference(("a.py",), (), ()))
    [one] = approvals.waiting()
    assert (one.digest, one.version, one.difference.added, one.approved) == (digest, "1.2", ("a.py",), False)
    assert not approvals.is_approved(digest)
    assert approvals.approve(digest, MOMENT) == digest
    assert approvals.is_approved(digest)
    assert approvals.approved() == {digest: MOMENT}
    assert approvals.withdraw(digest) == digest
    assert not approvals.is_approved(digest)
    with pytest.raises(BundleError, match="is not approved"):
        approvals.withdraw(digest)


def test_an_approval_names_one_bundle_whose_bytes_are_sound(tmp_path: Path) -> None:
    approvals, content = Approvals(tmp_path), fab(FILES)
    digest = bundle_digest(files_of_fab(content))
    approvals.wait(digest, content, Difference((), (), ()))
    for wrong in (digest[:7], digest[:12], digest[:63], "0" * 64, "../../etc", digest.upper()):
        with pytest.raises(BundleError):
            approvals.approve(wrong, MOMENT)
    (tmp_path / f"{digest}.fab").write_bytes(fab(FILES | {"client/app.py": "evil"}))
    with pytest.raises(BundleError, match="was changed on the disk"):
        approvals.approve(digest, MOMENT)
    assert not approvals.is_approved(digest)


def test_a_server_cannot_fill_the_disk_with_bundles(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    kept: list[str] = []
    for number in range(MAX_WAITING + 3):
        content = fab(FILES | {"client/app.py": f"a = {number}\n"})
        kept.append(bundle_digest(files_of_fab(content)))
        approvals.wait(kept[-1], content, Difference((), (), ("client/app.py",)))
        if number == 0:
            approvals.approve(kept[0], MOMENT)
    assert {one.digest for one in approvals.waiting()} == {kept[0], *kept[-MAX_WAITING:]}
    assert len(list(tmp_path.glob("*.fab"))) == MAX_WAITING + 1


@pytest.mark.parametrize("content", ["", "[]", "{}", "3", '{"version": "1"}', "\xe4"])
def test_a_damaged_note_is_named_and_comes_again(content: str, tmp_path: Path) -> None:
    approvals, packed = Approvals(tmp_path), fab(FILES)
    digest = bundle_digest(files_of_fab(packed))
    approvals.wait(digest, packed, Difference(("a.py",), (), ()))
    note = tmp_path / f"{digest}.json"
    whole = note.read_bytes()
    note.write_text(content, "latin-1")
    with pytest.raises(BundleError, match=f"^{note} is damaged: delete it; the bundle comes again"):
        approvals.waiting()
    note.unlink()
    approvals.wait(digest, packed, Difference(("a.py",), (), ()))
    assert note.read_bytes() == whole


def test_a_bundle_that_makes_place_while_it_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approvals, content = Approvals(tmp_path), fab(FILES)
    digest = bundle_digest(files_of_fab(content))
    approvals.wait(digest, content, Difference((), (), ()))
    gone = tmp_path / f"{'0' * 64}.fab"
    found = [tmp_path / f"{digest}.fab"]
    monkeypatch.setattr(Approvals, "_files", lambda _: [gone, *found])
    assert [one.digest for one in approvals.waiting()] == [digest]
    monkeypatch.undo()
    (tmp_path / f"{digest}.json").unlink()
    assert approvals.waiting() == ()


def test_the_manifests_project_is_the_one_in_the_bundle(own_app: Path) -> None:
    assert (
        own_contents(own_app)["pyproject.toml"]
        == contents_of_fab(build_fab_from_disk(own_app))["pyproject.toml"]
    )
