"""A site on a machine of its own: of all its attempts to connect, none is to another than its server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from harness import Federation
from namespaces import Attempt, Machine, Recorder, impossible

pytestmark = pytest.mark.deploy

STUDY = "study"


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
        (federation.private("A") / STUDY).rename(federation.private("A") / "moved")
        federation.submit("refused", "model.generators.kind=reused", "model.fusion.causal=true", sites=2)
        time.sleep(20)  # a refusal, and what follows it
        federation.server.stop()  # and a site that finds no server
        time.sleep(10)
        federation.sites["A"].stop()
        time.sleep(1)
        assert recorder.attempts() == {Attempt("tcp", machine.outside, federation.port)}
