"""The digest in a kit is what a site computes of the same code."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.node.bundle import bundle_digest as site_digest
from client.node.bundle import own_files
from server.deployment.bundle import bundle_digest

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


def test_the_digest_changes_with_a_file(app: Path) -> None:
    before = bundle_digest(app)
    (app / "client" / "app.py").write_text("app = 'other'\n")
    assert bundle_digest(app) != before
