"""A whole model's weights, each way, over a link as some hospitals have it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import FULL, SAME, Federation, Hospitals, furthest
from relay import Link, Relay
from undisturbed import shared_weights

pytestmark = pytest.mark.deploy

STUDY = "study"
RATE = 1.5e6
SLOW = Link(rate=RATE, delay_s=0.1, stall_every_s=40.0, stall_s=5.0)
"""1.5 Mbit/s each way, 100 ms, and five seconds without a byte every 45."""

SHORT_DEADLINE = ("federation.deadline_factor=2", "federation.min_deadline_s=25")
"""A multiple of what is usual is over long before such a link has carried the weights."""


def test_a_slow_link_is_in_time_in_every_round(make_federation: Callable[..., Federation]) -> None:
    """Two other sites, quick ones, decide what is usual; the first round is as unmeasured as ever."""
    federation = make_federation()
    federation.start_server()
    with Relay(("127.0.0.1", federation.port), SLOW) as relay:
        for site in ("A", "B", "C"):
            federation.join(site, server=f"127.0.0.1:{relay.port}" if site == "A" else None)
            federation.start_site(site)
        federation.wait_online("A", "B", "C")
        more = ("federation.num_rounds=2", "federation.payload=float16", *SHORT_DEADLINE)
        federation.submit(STUDY, *FULL, *more, sites=3)
        federation.wait_end(STUDY, 1500)
    for record in federation.history(STUDY)[1:]:
        print(f"{record['seconds']:.0f} s of {record['deadline_s']:.0f}: {record['sites'].keys()}")  # noqa: T201
        assert sorted(record["sites"]) == ["A", "B", "C"], record["rejected"]


@pytest.mark.parametrize("payload", ["float32", "float16"])
def test_a_round_ends_within_twice_the_transfer_time(
    make_federation: Callable[..., Federation], hospitals: Hospitals, tmp_path: Path, payload: str
) -> None:
    federation = make_federation()
    federation.start_server()
    with Relay(("127.0.0.1", federation.port), SLOW) as relay:
        for site in ("A", "B"):
            federation.join(site, server=f"127.0.0.1:{relay.port}" if site == "A" else None)
            federation.start_site(site)
        federation.wait_online("A", "B")
        more = (*FULL, "federation.num_rounds=1", f"federation.payload={payload}")
        federation.submit(STUDY, *more, sites=2)
        federation.wait_round(STUDY, 0, 300)
        down, up, begin = relay.bytes_down, relay.bytes_up, time.monotonic()
        summary = federation.wait_end(STUDY, 1500)
        took = time.monotonic() - begin
        (_, record) = federation.history(STUDY)
        part = record["sites"].get("A")
        print(  # noqa: T201
            f"{payload}: round of {record['seconds']:.0f} s; over the link {relay.bytes_down - down} bytes "
            f"down, {relay.bytes_up - up} up, {relay.num_connections} connections; site A: {part}; "
            f"rejected: {record['rejected']}"
        )
    assert part is not None, record["rejected"]
    assert summary["rounds"] == 1
    transfer_s = 8 * (part["bytes_down"] + part["bytes_up"]) / RATE
    print(f"transfer takes {transfer_s:.0f} s at full rate; waited {took:.0f} s")  # noqa: T201
    assert record["seconds"] <= 2 * transfer_s
    if payload == "float32":
        assert part["bytes_up"] > 25.6e6
        reference = shared_weights(tmp_path / "undisturbed", hospitals, "AB", *more)
        assert furthest(federation.shared(STUDY), reference) <= SAME
