"""Which site each node is, as the coordinator registered it; a site's own word does not count."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import yaml

ADMITTED = "admitted"
"""State of a member that may take part, as `climb-server admit` writes it."""


def names_of_nodes(members: Path) -> dict[int, str]:
    """Node to name of each admitted site, read anew at each call.

    Args:
        members: folder with one `NAME.yaml` a site. A record that is damaged, or of a site that is not
            admitted, names no node.
    """
    found: dict[int, str] = {}
    for file in sorted(members.glob("*.yaml")):
        try:
            values: object = yaml.safe_load(file.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        record = cast(dict[str, object], values) if isinstance(values, dict) else {}
        node = record.get("node")
        if record.get("state") == ADMITTED and record.get("name") == file.stem and isinstance(node, int):
            found[node] = file.stem
    return found
