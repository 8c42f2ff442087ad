"""Adds Debian's packages to the bill of materials of an image, and to its list of licences.

`cyclonedx-py` and `pip-licenses` list the Python environment; this adds what `dpkg-query` lists. Standard
library only. Called in a build: sbom.py BOM.json LICENSES.txt IMAGE VERSION OUT_FOLDER, with dpkg's list as
standard input, one package a line: name, version and architecture between tabs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote


def debian_components(listed: str) -> list[dict[str, Any]]:
    """CycloneDX components from the list of `dpkg-query`.

    The licences of a Debian package are one file, which stays in the image: the component names it.
    """
    found: list[dict[str, Any]] = []
    for line in sorted(listed.splitlines()):
        name, version, architecture = line.split("\t")
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro=debian-12"
        found.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "purl": purl,
                "properties": [{"name": "climb:licences", "value": f"/usr/share/doc/{name}/copyright"}],
            }
        )
    return found


def with_debian(bom: dict[str, Any], listed: str, *, image: str, version: str) -> dict[str, Any]:
    """The bill of materials `bom` of an image's Python environment with its Debian packages."""
    metadata = {
        **bom.get("metadata", {}),
        "component": {"type": "container", "bom-ref": image, "name": image, "version": version},
    }
    return {**bom, "metadata": metadata, "components": [*bom["components"], *debian_components(listed)]}


def licences(python: str, listed: str) -> str:
    """The list of licences: Python's distributions with their texts, then where Debian's texts are."""
    lines = [f"{part['name']} {part['version']}" for part in debian_components(listed)]
    return "\n".join(
        [
            "Python distributions, each with its licence",
            "",
            python.strip(),
            "",
            "Debian packages; the licence of each is /usr/share/doc/NAME/copyright",
            "",
            *lines,
            "",
        ]
    )


def main(arguments: list[str], listed: str) -> None:
    """Write `SBOM.cdx.json` and `LICENSES.txt` into the folder named last."""
    bom, python, image, version, out = arguments
    made = with_debian(json.loads(Path(bom).read_bytes()), listed, image=image, version=version)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "SBOM.cdx.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    text = licences(Path(python).read_text(encoding="utf-8"), listed)
    (folder / "LICENSES.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:], sys.stdin.read())
