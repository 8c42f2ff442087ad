"""Who may import whom."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
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
    assert "6 kept, 0 broken" in found.stdout


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
        ("climb_model/training", "import climb_model.intake"),
        ("client/app", "import client.node"),
        ("server/rounds", "import server.deployment"),
    ],
)
def test_a_forbidden_import_is_found(package: str, line: str, tmp_path: Path, checkout: Path) -> None:
    shutil.copy(checkout / "pyproject.toml", tmp_path)
    contracts = tomllib.loads((tmp_path / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = [name for contract in contracts for name in contract.get("source_modules", ())]
    named += [name for contract in contracts for name in contract.get("forbidden_modules", ())]
    for name in {*PACKAGES, *(name for name in named if name.partition(".")[0] in PACKAGES)}:
        folder = tmp_path / name.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
    for folder in [path for path in tmp_path.rglob("*") if path.is_dir()]:
        (folder / "__init__.py").touch()
    assert lint(tmp_path).returncode == 0
    (tmp_path / package / "strange.py").write_text(f"{line}\n")
    assert lint(tmp_path).returncode == 1


def test_nothing_is_imported_from_flower_by_the_science_at_run_time() -> None:
    code = "import sys, climb_model.sharing, climb_model.runs; sys.exit('flwr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
