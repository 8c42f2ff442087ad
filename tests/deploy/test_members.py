"""Who may connect, and what of the server can be reached from outside."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from harness import Federation
from processes import open_ports, wait_until

pytestmark = pytest.mark.deploy

Make = Callable[..., Federation]
STUDY = "study"

CLOSED = (
    "/",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/v1/control",
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/control/register-node",
    "/v1/runtime",
    "/v1/runtime/acquire-task",
    "/v1/runtime/pull-message",
    "/v1/fleet",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "/v1/fleet//../../v1/control/list-runs",
    "/V1/CONTROL/list-runs",
    "//v1/control/list-runs",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/health/../v1/control/list-runs",
    "/metrics",
)


def test_sites_reach_the_fleet_and_the_health_and_nothing_else(make_federation: Make) -> None:
    federation = make_federation()
    server = federation.start_server()
    assert federation.get("/health") == 200
    for path in CLOSED:
        for method in ("GET", "POST"):
            body = b"" if method == "POST" else None
            assert federation.get(path, method=method, body=body) in (400, 404), (method, path)
    # what is in front of an unknown key is not the proxy any more, but Flower's own refusal
    assert federation.get("/v1/fleet/pull-messages", method="POST", body=b"") in (400, 401, 403, 415, 422)
    listening = {port for pid in server.tree() for port in open_ports(pid)}
    assert {port for host, port in listening if host != "127.0.0.1"} == {federation.port}
    assert server.stop() in (0, 130, 143)


def test_an_unknown_key_is_kept_out_in_words_and_disturbs_nobody(make_federation: Make) -> None:
    federation = make_federation()
    federation.start_server()
    for site in ("A", "B"):
        federation.join(site)
        federation.start_site(site)
    federation.wait_online("A", "B")
    federation.prepare("C")  # has a key, which the coordinator has not admitted
    stranger = federation.start_site("C")
    federation.submit(STUDY, sites=2)
    federation.wait_end(STUDY)
    assert [sorted(record["sites"]) for record in federation.history(STUDY)][1:] == [["A", "B"]] * 3
    status = federation.try_("climb-site", "status", "--node", federation.node("C")).stdout
    assert "does not know this site's key: not admitted yet" in status, status
    assert not (federation.private("C") / STUDY).exists()
    assert stranger.code is None, "it should go on trying, with patience"


def test_a_key_of_another_site_does_not_give_its_name(make_federation: Make) -> None:
    """C has A's certificate authority and its own admitted key, and says that it is A."""
    federation = make_federation()
    federation.start_server()
    for site in ("A", "B", "C"):
        federation.join(site)
    federation.change_node("C", name="A")
    for site in ("A", "B", "C"):
        federation.start_site(site)
    federation.wait_online("A", "B", "C")
    federation.submit(STUDY, "federation.min_sites=1", sites=3)
    federation.wait_end(STUDY)
    history = federation.history(STUDY)
    assert [sorted(record["sites"]) for record in history][1:] == [["A", "B"]] * 3
    (refused,) = history[0]["rejected"]
    assert refused["site"] == "C"
    assert "'A'" in refused["reason"]
    # nor where A is not connected
    federation.sites["A"].stop()
    federation.submit("without", "federation.min_sites=1", "federation.num_rounds=1", sites=2)
    federation.wait_end("without")
    before, first = federation.history("without")
    assert refused in before["rejected"]
    assert sorted(first["sites"]) == ["B"]


def test_a_site_that_is_revoked_in_a_study_is_out_at_once(make_federation: Make) -> None:
    federation = make_federation()
    federation.start_server()
    for site in ("A", "B", "C"):
        federation.join(site)
        federation.start_site(site)
    federation.wait_online("A", "B", "C")
    federation.submit(STUDY, "federation.num_rounds=4", sites=3)
    federation.wait_round(STUDY, 1)
    federation.ask("climb-server", "revoke", "A", "--home", federation.home)
    federation.wait_end(STUDY)
    history = federation.history(STUDY)
    assert sorted(history[1]["sites"]) == ["A", "B", "C"]
    assert sorted(history[-1]["sites"]) == ["B", "C"]
    assert any(entry["site"] == "A" for record in history for entry in record["rejected"])

    def said_so() -> bool:
        status = federation.try_("climb-site", "status", "--node", federation.node("A")).stdout
        return "no longer accepts this site's key: the coordinator revoked it" in status

    wait_until(said_so, 240, "the site's admin is told that it was revoked")
    federation.sites["A"].stop()
    federation.start_site("A")
    shutil.rmtree(federation.out(STUDY))
    federation.submit("after", sites=2)
    federation.wait_end("after")
    assert all("A" not in record["sites"] for record in federation.history("after"))
