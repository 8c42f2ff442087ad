"""A site on a machine of its own: of all its attempts to connect, none is to another than its server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from harness import Federation
from namespaces import Attempt, Machine, Recorder, impossible
from processes import wait_until

pytestmark = pytest.mark.deploy

STUDY = "study"
REFUSED = (
    "objectives.coca=1",
    "objectives.inverse_coca=1",
    "model.fusion.causal=true",
    "model.generators.kind=reused",
)
"""What writes reports would be shared: the sites' policies do not allow it."""


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine of site A's own."""
    why = impossible()
    if why:
        pytest.skip(why)
    with Machine(93) as machine:
        yield machine


def test_a_site_connects_to_its_server_and_to_nothing_else(
    make_federation: Callable[..., Federation], machine: Machine
) -> None:
    federation = make_federation(host=machine.outside)
    federation.start_server()
    for site in ("A", "B"):
        federation.join(site)
    with Recorder(machine) as recorder:
        federation.start_site("A", machine=machine)
        federation.start_site("B")
        federation.wait_online("A", "B")
        federation.submit(STUDY, sites=2)
        federation.wait_end(STUDY)
        assert all("A" in record["sites"] for record in federation.history(STUDY)[1:])
        federation.submit("refused", *REFUSED, "federation.min_sites=1", sites=2)
        wait_until(lambda: federation.failure("refused"), 400, "a study that both sites refuse fails")
        federation.server.stop()  # and a site that finds no server
        time.sleep(10)
        federation.sites["A"].stop()
        time.sleep(1)
        assert recorder.attempts() == {Attempt("tcp", machine.outside, federation.port)}
