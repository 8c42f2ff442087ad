"""Builds an image with podman: python deploy/build.py site|server [--tag TAG] [options of podman build].

A machine behind a mirror has its own pip settings, certificates and folders of wheels. They are given to the
build as mounts and leave nothing in the image. Standard library only.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
DOCKERFILES = {"site": "client/Dockerfile", "server": "server/Dockerfile"}
TORCH_CPU = "torch-2.13.0+cpu-*.whl"


def pip_settings(listed: str) -> dict[str, str]:
    """The settings of `pip config list`, later lines (the environment) before earlier ones (files)."""
    found: dict[str, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        found.setdefault(re.sub(r"^(:env:|global|install)\.", "", key.strip()), value.strip().strip("'\""))
    return found


def folders_of(settings: dict[str, str]) -> list[Path]:
    """Files and folders of this machine that pip's settings name; of an index the folder around it."""
    found: set[Path] = set()
    for word in (word for value in settings.values() for word in re.split(r"\s|\\n", value)):
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            found.add(path.parent if word.startswith("file://") else path)  # its files lie beside its pages
    return sorted(found, reverse=True)  # a longer path before one that it begins with


def build_options(settings: dict[str, str], folder: Path) -> list[str]:
    """Options for a build with this machine's pip settings, from the empty folder `folder`.

    The build sees `folder` as /mnt, which every base has: another place would stay in the image as an
    empty folder. In it are the settings, and what they name under numbers.
    """
    if not settings:
        return []
    options = ["--volume", f"{folder}:/mnt:ro", "--build-arg", "PIP_CONFIG_FILE=/mnt/pip.conf"]
    written = "".join(f"{key} = " + value.replace("\\n", "\n    ") + "\n" for key, value in settings.items())
    named = folders_of(settings)
    for number, path in enumerate(named):
        place = folder / str(number)
        place.mkdir() if path.is_dir() else place.touch()
        written = written.replace(str(path), f"/mnt/{number}")
        options += ["--volume", f"{path.resolve()}:/mnt/{number}:ro"]
    (folder / "pip.conf").write_text(f"[global]\n{written}", encoding="utf-8")
    if any(any(path.glob(TORCH_CPU)) for path in named):
        options += ["--build-arg", "TORCH_INDEX_URL="]  # the build of torch is in a folder of this machine
    return options


def version() -> str:
    """The version of the project."""
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def revision() -> str:
    """The commit of the checkout, with `-changed` if files differ from it; `unknown` without git."""
    told = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--match=", "--dirty=-changed"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def main(arguments: list[str]) -> int:
    """Build one image; returns podman's exit code."""
    parser = argparse.ArgumentParser(description="Build the image of a site or of the server with podman.")
    parser.add_argument("side", choices=sorted(DOCKERFILES))
    parser.add_argument("--tag", help="name of the image; localhost/climb-SIDE:VERSION unless told")
    told, others = parser.parse_known_args(arguments)
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    with tempfile.TemporaryDirectory() as folder:
        command = ["podman", "build", "--file", DOCKERFILES[told.side], "--layers"]
        command += ["--tag", told.tag or f"localhost/climb-{told.side}:{version()}"]
        command += ["--build-arg", f"VERSION={version()}", "--build-arg", f"REVISION={revision()}"]
        command += build_options(pip_settings(listed.stdout), Path(folder))
        return subprocess.run([*command, *others, "."], cwd=CHECKOUT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
