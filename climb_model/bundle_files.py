"""From which files Flower chooses those of a bundle."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, cast

PROJECT = "pyproject.toml"


def bundle_candidates(root: Path) -> dict[str, bytes | Path]:
    """Path to file of all that lies in a folder which `fab-include` names, and the project's own two files.

    Flower itself would look through the whole checkout, with its environment and runs.

    Args:
        root: folder with the `pyproject.toml` from which the bundle is made.
    """
    project = cast(Any, tomllib.loads((root / PROJECT).read_text("utf-8")))
    patterns = cast(list[str], project["tool"]["flwr"]["app"]["fab-include"])
    found = [path for top in {one.partition("/")[0] for one in patterns} for path in (root / top).rglob("*")]
    found += [root / PROJECT, root / ".gitignore"]
    return {path.relative_to(root).as_posix(): path for path in found if path.is_file()}
