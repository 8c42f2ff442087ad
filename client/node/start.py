"""A running node: the SuperNode, kept alive, and the gate in front of the site's exams."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

from client.egress.egress import Egress
from client.egress.policy import read_policy
from client.node import seccomp
from client.node.checks import check_node
from client.node.fence import gaps
from client.node.gate import Gate
from client.node.runtime import FlowerRuntime
from client.node.server_check import ServerCheck, check_server
from client.node.settings import NodeError, NodePaths, NodeSettings, read_node
from client.node.status import NodeStatus, StatusFile
from client.node.weights import lacking_weights
from climb_model.lock import only_process
from climb_model.logs import rotate
from climb_model.made_by import program_version
from climb_model.ports import free_port
from climb_model.supervisor import Backoff, Service, Supervisor, end_left_behind

SUPERNODE = "supernode"
LOOK_S = 5.0
"""Seconds between two looks at the SuperNode's log."""

SERVER_S = 60.0
"""Seconds between two looks at the server while there is no connection."""

AGAIN = Backoff(most_s=15.0)
"""Pauses between tries to connect. Flower holds a site that ended without a word for connected for a minute;
a long pause behind that minute would cost the site another round."""

LEAVE_S = 6.0
"""Seconds that the last refusal may take to leave when the node is stopped."""

_NOT_DUMPABLE = 4


def start_node(folder: Path, say: Callable[[str], None]) -> None:
    """Run a site's node until SIGTERM or SIGINT, in the environment of `set_environment`.

    Args:
        folder: the node's, as `climb-site join` made it.
        say: the screen; the same lines go to `state/gate.log`.

    Raises:
        NodeError: if something in the folder is not in order, or the gate ended.
        LockedError: if this node runs already.
    """
    paths = NodePaths(folder.resolve())
    settings = read_node(paths.folder)
    coordinator = check_node(paths, settings)
    os.umask(0o077)  # what the node writes is its owner's alone
    paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with only_process(paths.lock, what=f"runs the node of site '{settings.name}'", wait_s=1.0):
        _Node(paths, settings, coordinator, say).run()


class _Node:
    """The parts of one running node."""

    def __init__(
        self, paths: NodePaths, settings: NodeSettings, coordinator: str, say: Callable[[str], None]
    ) -> None:
        self._paths, self._settings, self._screen = paths, settings, say
        self._stop, self._gate_ended = threading.Event(), threading.Event()
        end_left_behind("FLWR_HOME", str(paths.flower_home))
        port = free_port()
        self._log = paths.state / "supernode.log"
        self._supervisor = Supervisor(
            [Service(SUPERNODE, self._command(port), dict(os.environ), self._log, _listens(port))],
            self._say,
            backoff=AGAIN,
        )
        secret = paths.secret.read_bytes()
        if not secret:
            raise NodeError(f"{paths.secret} is empty: join anew")
        self._check: ServerCheck | None = None
        self._gate = Gate(
            paths,
            settings,
            FlowerRuntime(f"127.0.0.1:{port}", secret),
            Egress(settings.private, paths.policy, settings.name, end=paths.audit_end),
            coordinator=coordinator,
            say=self._note,
            told=lambda message: self._status.answered(message),
        )
        now = time.time()
        self._status = StatusFile(
            paths.status,
            NodeStatus(
                site=settings.name,
                server=settings.server,
                version=program_version(),
                bundle=self._gate.digest,
                pid=os.getpid(),
                started=now,
                updated=now,
            ),
        )

    def run(self) -> None:
        """Until a signal comes or the gate ends."""
        ctypes.CDLL(None).prctl(_NOT_DUMPABLE, 0)  # no other process of this user reads the secret here
        self._say(f"site '{self._settings.name}' starts; its program's bundle is {self._gate.digest[:12]}")
        if gap := gaps():
            self._say(f"this kernel {gap}")
        if not seccomp.is_there():
            self._say(
                "this machine takes no filter of system calls: the training process can open connections, "
                "change modes of this user's files and leave processes behind"
            )
        if lacking := lacking_weights(read_policy(self._paths.policy).presets, self._settings.weights):
            self._say(lacking)
        gate = threading.Thread(target=self._run_gate, name="gate")
        watch = threading.Thread(target=self._run_watch, name="watch", daemon=True)
        with _signals(self._stop):
            gate.start()
            watch.start()
            supernode_stop = threading.Event()
            last = threading.Thread(target=self._leave, args=(supernode_stop, gate), name="leave")
            last.start()
            try:
                self._supervisor.run_until(supernode_stop)
            finally:
                self._stop.set()
                last.join()
        self._say(f"site '{self._settings.name}' has stopped")
        if self._gate_ended.is_set():
            raise NodeError(f"the gate of site '{self._settings.name}' ended; see gate.log of its state")

    def _leave(self, supernode_stop: threading.Event, gate: threading.Thread) -> None:
        """When told to stop: the gate first, and time for its last reply, then the SuperNode."""
        self._stop.wait()
        answered = self._status.now().num_messages
        end = time.monotonic() + LEAVE_S
        gate.join(LEAVE_S)
        if self._status.now().num_messages > answered:  # the SuperNode sends it within about 2 s
            time.sleep(max(0.0, min(2.0, end - time.monotonic())))
        supernode_stop.set()
        gate.join()

    def _run_gate(self) -> None:
        try:
            self._gate.run_until(self._stop)
        except BaseException as error:
            self._gate_ended.set()
            self._say(f"the gate ended with {type(error).__name__}: {error}")
            raise
        finally:
            self._stop.set()

    def _run_watch(self) -> None:
        """Look at the SuperNode and, while it is not let in, at the server; say what is new."""
        looked, told = 0.0, ""
        while not self._stop.is_set():
            before = self._status.now().connected_since
            if (before is None and time.monotonic() - looked >= SERVER_S) or not looked:
                self._check, looked = check_server(self._settings.server, self._paths.ca), time.monotonic()
            self._status.supernode(self._supervisor.states()[SUPERNODE], self._log, self._check)
            now = self._status.now()
            if before is None and now.connected_since is not None:
                self._say(f"connected to {self._settings.server}")
                self._check, told = None, ""  # it was of another time
            elif before is not None and now.connected_since is None:
                looked = 0.0
            if now.problem and now.problem != told:
                self._say(told := now.problem)
            self._stop.wait(LOOK_S)

    def _command(self, port: int) -> list[str]:
        script = Path(sys.executable).parent / "flower-supernode"
        if not script.is_file():
            raise NodeError(f"there is no flower-supernode beside {sys.executable}: install flwr")
        paths = self._paths
        return [
            str(script),
            *("--superlink", self._settings.server),
            *("--root-certificates", str(paths.ca)),
            *("--auth-supernode-private-key", str(paths.key)),
            *("--isolation", "process"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--superexec-auth-secret-file", str(paths.secret)),
        ]

    def _say(self, line: str) -> None:
        """On the screen and in the log."""
        self._screen(line)
        self._note(line)

    def _note(self, line: str) -> None:
        """In the log, which stays at the site."""
        log = self._paths.state / "gate.log"
        rotate(log)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}\n")


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Generator[None]:
    """SIGTERM and SIGINT set the event while the block runs."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listens(port: int) -> Callable[[], bool]:
    def ready() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return ready
