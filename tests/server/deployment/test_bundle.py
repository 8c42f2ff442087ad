"""The digest in a kit is what a site computes of the same code."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from client.node.bundle import bundle_digest as site_digest
from client.node.bundle import files_of_fab, own_files
from server.deployment.bundle import bundle_digest, staged
from server.deployment.flower import app_folder

PROJECT = """\
[project]
name = "small"
version = "1.0.0"
license = "MIT"

[tool.flwr.app]
publisher = "climb"
fab-include = ["client/*.py", "server/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A small application that Flower bundles."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    for name in ("client", "server"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.py").write_text(f"app = '{name}'\n")
    return tmp_path


def test_coordinator_and_site_compute_the_same_digest_of_the_same_files(app: Path) -> None:
    assert bundle_digest(app) == site_digest(own_files(app))


def test_what_flower_is_handed_holds_the_bundle_alone_and_becomes_the_same_one(
    app: Path, tmp_path: Path
) -> None:
    (app / "stray").mkdir()
    (app / "stray" / "app.py").write_text("raise SystemExit\n")
    (app / "client" / "notes.txt").write_text("not for sites\n")
    beside = tmp_path / "home"
    beside.mkdir()
    with staged(app, beside) as folder:
        assert folder.parent == beside
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        assert files == ["client/app.py", "pyproject.toml", "server/app.py"]
        assert build_fab_from_disk(folder) == build_fab_from_disk(app)
        assert bundle_digest(folder) == bundle_digest(app)
    assert list(beside.iterdir()) == []


def test_the_promised_digest_is_that_of_what_is_sent(tmp_path: Path) -> None:
    with staged(app_folder(), tmp_path) as folder:
        sent = files_of_fab(build_fab_from_disk(folder))
    assert site_digest(sent) == bundle_digest(app_folder())
    assert sent == own_files(app_folder())
    assert "server/register.py" in sent
    assert not [name for name in sent if name.startswith(("server/deployment/", "client/node/", "tests/"))]


def test_the_digest_changes_with_a_file(app: Path) -> None:
    before = bundle_digest(app)
    (app / "client" / "app.py").write_text("app = 'other'\n")
    assert bundle_digest(app) != before
