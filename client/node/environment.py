"""The environment of all of Flower that runs at a site; it loads nothing of Flower."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from climb_model.environment import LOOPBACK_DIRECT, NO_CALLS, NO_HUB, SMALL_PIECES

FLOWER: Mapping[str, str] = {
    **NO_CALLS,
    **NO_HUB,
    **LOOPBACK_DIRECT,
    **SMALL_PIECES,
    "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES": "1",  # a slow link has its whole rate for the one piece
}


def set_environment(home: Path) -> None:
    """For this process and what it starts; before Flower is imported, which reads the sizes then.

    Args:
        home: FLWR_HOME.
    """
    os.environ.update(FLOWER)
    os.environ["FLWR_HOME"] = str(home)
