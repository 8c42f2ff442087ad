"""The argument by which the verbs of a node find its folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_node_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--node DIR`."""
    parser.add_argument(
        "--node", type=Path, metavar="DIR", help="the node's folder; else CLIMB_NODE, else ./node"
    )


def node_folder(arguments: argparse.Namespace) -> Path:
    """The folder that was meant; whether a node is there is not looked at."""
    from client.node.settings import DEFAULT_FOLDER, VARIABLE

    return arguments.node or Path(os.environ.get(VARIABLE) or DEFAULT_FOLDER)
