"""Which version a program says it is of: that of the code that runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from climb_model.made_by import PROGRAM, program_version


def version_in(root: Path) -> str:
    """What the code of another folder says, in a process of its own as a site runs it."""
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import climb_model.made_by as m; "
    told = subprocess.run(
        [sys.executable, "-I", "-c", code + "print(m.program_version(), m.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert Path(told[1]).is_relative_to(root)
    return told[0]


@pytest.fixture
def copy(tmp_path: Path, checkout: Path) -> Path:
    """The one package of this program, elsewhere."""
    (tmp_path / "climb_model").mkdir()
    for name in ("__init__.py", "made_by.py"):
        shutil.copy(checkout / "climb_model" / name, tmp_path / "climb_model" / name)
    return tmp_path


def test_a_bundle_says_its_own_version_whatever_is_installed(copy: Path) -> None:
    (copy / "pyproject.toml").write_text(f'[project]\nname = "{PROGRAM}"\nversion = "99.1.0"\n')
    assert version_in(copy) == "99.1.0"
    assert program_version() == version(PROGRAM) != "99.1.0"


@pytest.mark.parametrize(
    "project", [None, '[project]\nname = "other"\nversion = "99.1.0"\n', "project = 7", "no TOML ["]
)
def test_without_its_own_file_the_version_is_the_installations(copy: Path, project: str | None) -> None:
    if project is not None:
        (copy / "pyproject.toml").write_text(project)
    assert version_in(copy) == version(PROGRAM)
