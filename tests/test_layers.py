"""Who may import whom."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("configs", "climb_model", "strategies", "server", "client", "simulation")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of `pyproject.toml` on the packages of a folder."""
    code = (
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True))"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_layers_hold(checkout: Path) -> None:
    found = lint(checkout)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "4 kept, 0 broken" in found.stdout


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("client", "import server"),
        ("client", "import strategies"),
        ("climb_model", "import flwr"),
        ("climb_model", "import client"),
        ("configs", "import flwr"),
        ("configs", "import torch"),
        ("configs", "import climb_model"),
        ("strategies", "import server"),
        ("server", "import client"),
        ("server", "import simulation"),
    ],
)
def test_a_forbidden_import_is_found(package: str, line: str, tmp_path: Path, checkout: Path) -> None:
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    shutil.copy(checkout / "pyproject.toml", tmp_path)
    assert lint(tmp_path).returncode == 0
    (tmp_path / package / "strange.py").write_text(f"{line}\n")
    assert lint(tmp_path).returncode == 1


def test_nothing_is_imported_from_flower_by_the_science_at_run_time() -> None:
    code = "import sys, climb_model.sharing, climb_model.runs; sys.exit('flwr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
