"""Environment variables of all processes of a study: nothing connects by itself, tensors come in pieces."""

from __future__ import annotations

from collections.abc import Mapping

NO_CALLS: Mapping[str, str] = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""No telemetry, no look for updates, no installs."""

NO_HUB: Mapping[str, str] = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
"""Frozen encoders come from local folders only."""

LOOPBACK_DIRECT: Mapping[str, str] = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
"""A web proxy of the hospital's is not asked for this machine itself."""

CHUNK_BYTES = 1 << 20
SMALL_PIECES: Mapping[str, str] = {"FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(CHUNK_BYTES)}
"""Size of the pieces in which tensors travel, instead of Flower's 5 MiB.

Flower waits 30 s for the answer to each. A piece that a bad link cuts is sent again as a whole, and each
piece renews the 180 s that Flower gives to an upload: at 1.5 Mbit/s 5 MiB take 28 s, 1 MiB takes 6 s.
"""
