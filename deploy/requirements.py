"""Prints the requirements of one image, `site` or `server`: the project's less those that it never imports.

Standard library only: it runs in a build before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

NOT_OF_A_ROUND = ("opacus", "scikit-learn")
ONLY_OF_THE_DATA_DOOR = ("pydicom", "python-gdcm", "openpyxl", "SimpleITK", "scipy")
LEFT_OUT = {"site": NOT_OF_A_ROUND, "server": (*NOT_OF_A_ROUND, *ONLY_OF_THE_DATA_DOOR)}
"""Distributions by image. A test holds them against what the image's code imports."""


def requirements(side: str, pyproject: str) -> list[str]:
    """The requirements of the image `side`, from the text of `pyproject.toml`.

    Ray comes only with Flower's extra `simulation`, which no image has: a simulation needs no container.

    Raises:
        ValueError: if a distribution that would be left out is no dependency at all.
    """
    found: list[str] = []
    absent = set(LEFT_OUT[side])
    for dependency in tomllib.loads(pyproject)["project"]["dependencies"]:
        name = re.split(r"[^\w.-]", dependency, maxsplit=1)[0]
        if name in LEFT_OUT[side]:
            absent.discard(name)
        else:
            found.append(dependency.replace("[simulation]", ""))
    if absent:
        raise ValueError(f"left out of the image {side}, but no dependency: {', '.join(sorted(absent))}")
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(sys.argv[1], Path(sys.argv[2]).read_text(encoding="utf-8"))))
