"""What a SuperNode's own log says of its connection; the lines are those of real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client.node.server_check import ServerCheck
from client.node.status import NodeStatus, StatusFile
from climb_model.supervisor import ServiceState

STARTED = """\x1b[92mINFO \x1b[0m:      Starting Flower SuperNode
\x1b[93mWARNING \x1b[0m:   EXPERIMENTAL: SuperExec authentication is experimental.
INFO:     Started server process [{pid}]
INFO:     Waiting for application startup.
\x1b[92mINFO \x1b[0m:      FastAPI lifespan: startup
INFO:     Application startup complete.
INFO:     Uvicorn running on http://127.0.0.1:34431 (Press CTRL+C to quit)
"""
LET_IN = "\x1b[92mINFO \x1b[0m:      SuperNode ID: 16045790337113263125\n"
TERMINATED = "\x1b[92mINFO \x1b[0m:      SuperNode terminated gracefully.\n"
EXIT = """\x1b[91mERROR \x1b[0m:     Exit Code: {code}
Failed to initialize the connection to the SuperLink.
{why}
The SuperNode could not establish a connection to the SuperLink.

For more information, visit: <https://flower.ai/docs/framework/1.41/en/ref-exit-codes/305.html>
"""
NOT_ACTIVATED = EXIT.format(code=305, why="[code: 2004] Failed to activate SuperNode.")
DOWN = """INFO:     Shutting down
INFO:     Waiting for application shutdown.
\x1b[92mINFO \x1b[0m:      FastAPI lifespan: shutdown
INFO:     Application shutdown complete.
INFO:     Finished server process [{pid}]
"""
TRIES = """\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 0.39 seconds
\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 0.55 seconds
"""
AGAIN = "\x1b[92mINFO \x1b[0m:      Connection successful after 13.07 seconds and 3 tries.\n"

RUNS = ServiceState(pid=21, since=1.0, ready=True, restarts=0, last_exit=None)
SOUND = ServerCheck(answers=True, offset_s=0.0, problem="")

Look = Callable[..., NodeStatus]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """The status after one look at a log of these pieces."""
    first = NodeStatus(site="H", server="s:1", version="0", bundle="b", pid=1, started=1.0, updated=1.0)
    file, log = StatusFile(tmp_path / "status.json", first), tmp_path / "supernode.log"

    def run(*pieces: str, state: ServiceState = RUNS, check: ServerCheck | None = SOUND) -> NodeStatus:
        log.write_text("".join(pieces), "utf-8")
        file.supernode(state, log, check)
        return file.now()

    return run


def session(pid: int, *pieces: str) -> str:
    return "".join([STARTED, *pieces]).replace("{pid}", str(pid))


def ended(code: int, *, again: bool = False) -> ServiceState:
    return replace(RUNS, pid=22 if again else None, restarts=1, last_exit=code)


UNKNOWN = session(20, NOT_ACTIVATED, DOWN)
REVOKED = session(20, LET_IN, TERMINATED, DOWN)
KILLED = session(20, LET_IN)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    ("log", "code", "told"),
    [
        ([UNKNOWN], 1, "does not know this site's key: not admitted yet"),
        ([UNKNOWN, session(21, NOT_ACTIVATED, DOWN)], 1, "does not know this site's key: not admitted yet"),
        ([REVOKED], 0, "no longer accepts this site's key: the coordinator revoked it"),
        ([REVOKED, session(21, NOT_ACTIVATED, DOWN)], 1, "no longer accepts this site's key"),
        ([KILLED, session(21, NOT_ACTIVATED, DOWN)], 1, "for about 60 s after a SuperNode ended without"),
        ([session(20, TERMINATED, DOWN)], 0, "refused this site's signature: its clock"),
        ([session(20, "ERROR : SSL/TLS handshake error detected.\n")], 1, "does not trust the server's"),
        ([session(20, EXIT.format(code=305, why="Other words"))], 1, "exit code 305: Other words"),
        ([KILLED], -9, "ended with exit code -9; supernode.log"),
    ],
)
def test_why_there_is_no_connection_is_said_in_words(
    log: list[str], code: int, told: str, again: bool, look: Look
) -> None:
    """Also while the next one starts and has not said whether it is let in."""
    next_one = [session(22)] if again else []
    found = look(*log, *next_one, state=ended(code, again=again))
    assert told in found.problem
    assert found.connected_since is None
    assert found.restarts == 1


def test_what_the_server_check_found_comes_first(look: Look) -> None:
    clock = ServerCheck(answers=True, offset_s=9.0, problem="this machine's clock is 9 s ahead")
    assert look(REVOKED, state=ended(0), check=clock).problem == clock.problem


def test_the_words_of_one_that_ended_make_no_connection(look: Look) -> None:
    """The next process has its number before it has written a line."""
    assert look(session(21, LET_IN)).connected_since is not None
    revoked = session(21, LET_IN, TERMINATED, DOWN)
    assert look(revoked, state=ended(0)).connected_since is None
    assert look(revoked, state=ended(0, again=True)).connected_since is None
    assert look(revoked, session(22), state=ended(0, again=True)).connected_since is None
    assert look(revoked, session(22, LET_IN), state=ended(0, again=True)).connected_since is not None


def test_a_connection_is_lost_while_the_supernode_tries_in_vain(look: Look) -> None:
    assert look(session(21, LET_IN)).connected_since is not None
    lost = look(session(21, LET_IN, TRIES))
    assert lost.connected_since is None
    assert lost.problem == "the connection to the server is lost; the SuperNode tries again"
    assert look(session(21, LET_IN, TRIES, AGAIN)).connected_since is not None


def test_a_long_log_does_not_end_the_connection(look: Look) -> None:
    assert look(session(21, LET_IN)).connected_since is not None
    assert look(session(21, LET_IN), "INFO : Received successfully\n" * 20_000).connected_since is not None
    assert look("").connected_since is not None  # it was put aside just now
