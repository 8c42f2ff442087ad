"""A site whose network is gone for two minutes, in the middle of an upload.

Flower lets an upload pause for 180 s before it throws away what came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import FULL, SAME, Federation, Hospitals, furthest
from namespaces import Machine, impossible
from processes import wait_until
from undisturbed import shared_weights

pytestmark = pytest.mark.deploy

CUT_S = 120.0
STUDY = "study"
UPLOAD_BITS = 4e6
"""A second: an upload of 26 MB takes about a minute."""


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine of site A's own."""
    why = impossible()
    if why:
        pytest.skip(why)
    with Machine(92) as machine:
        yield machine


def test_the_network_is_cut_for_two_minutes_in_an_upload(
    make_federation: Callable[..., Federation], hospitals: Hospitals, machine: Machine, tmp_path: Path
) -> None:
    federation = make_federation(host=machine.outside)
    federation.start_server()
    for site in ("A", "B"):
        federation.join(site)
    federation.start_site("A", machine=machine)
    federation.start_site("B")
    federation.wait_online("A", "B")
    machine.limit(UPLOAD_BITS)
    more = (*FULL, "federation.num_rounds=2")
    federation.submit(STUDY, *more, sites=2)
    federation.wait_round(STUDY, 0)
    begin = machine.sent()
    wait_until(lambda: machine.sent() - begin > 6_000_000, 400, "site A uploads")
    machine.cut()
    cut = time.monotonic()
    time.sleep(CUT_S)
    assert len(federation.history(STUDY)) == 1
    sent = machine.sent()
    machine.restore()
    took = federation.wait_round(STUDY, 1, 600)
    print(  # noqa: T201
        f"cut {sent - begin} bytes into the upload; round 1 on disk {took:.0f} s after the network was back, "
        f"{time.monotonic() - cut:.0f} s after the cut; {machine.sent() - sent} bytes sent since"
    )
    federation.wait_end(STUDY, 600)
    history = federation.history(STUDY)
    absent = {
        record["round"]: [site for site in "AB" if site not in record["sites"]] for record in history[1:]
    }
    for record in history:
        print({key: record[key] for key in ("round", "seconds", "rejected")})  # noqa: T201
    assert not any(absent.values()), absent
    reference = shared_weights(tmp_path / "undisturbed", hospitals, "AB", *more)
    assert furthest(federation.shared(STUDY), reference) <= SAME
