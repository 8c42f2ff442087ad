"""The environment of all of Flower that runs at a site; it loads nothing of Flower."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CHUNK_BYTES = 2**20
"""Tensors leave in pieces of this size: Flower waits 30 s for the answer to each."""

FLOWER: Mapping[str, str] = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(CHUNK_BYTES),
    "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES": "1",  # a slow link has its whole rate for the one piece
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


def set_environment(home: Path) -> None:
    """For this process and what it starts; before Flower is imported, which reads the sizes then.

    Args:
        home: FLWR_HOME.
    """
    os.environ.update(FLOWER)
    os.environ["FLWR_HOME"] = str(home)
