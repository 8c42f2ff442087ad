"""The gate of a site: which message is worked on, by which code, and what of the answer leaves."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import Message, RecordDict

from client.egress.egress import Egress, agreed_shapes
from client.egress.rules import BEHIND, Broken, Leaving
from client.node.bundle import (
    ROOT,
    Approvals,
    BundleError,
    Difference,
    bundle_digest,
    contents_of_fab,
    difference,
    files_of,
    own_contents,
    program_digest,
    unpack,
    version_of,
)
from client.node.child import Outcome, run_app, seconds_left
from client.node.pause import paused_line, stops_now
from client.node.runtime import Received, Runtime, Task
from client.node.settings import NodePaths, NodeSettings
from client.node.status import Answered
from client.refusal import refusal
from climb_model.names import NAME_PATTERN
from climb_model.sharing import REFUSAL

POLL_S = 0.5
FAULT_S = 5.0
"""Seconds until the next try after a fault of the gate itself."""

KINDS = ("query.hello", "train")
"""The messages that a site works on."""

_CHANGED = "has another program on its disk than when its node was started: restart the node"


RunApp = Callable[[Received, NodeSettings, Path, Path, Path, Callable[[], str | None]], Outcome]


class Gate:
    """Works on the messages of this machine's SuperNode, one at a time.

    Guarantees:
        - No code of a bundle is unpacked or imported unless its files are this image's own, or are
          those that the site's admin approved.
        - What runs as this image's own is what was in its files when the gate was made.
        - Every reply passes the site's policy and its audit log; if the log cannot be written, nothing
          is answered at all.
        - Whatever fails, the reply names the kind of failure and nothing else.
    """

    def __init__(
        self,
        paths: NodePaths,
        settings: NodeSettings,
        runtime: Runtime,
        egress: Egress,
        *,
        coordinator: str,
        say: Callable[[str], None],
        told: Callable[[Answered], None] = lambda _: None,
        run: RunApp = run_app,
    ) -> None:
        """
        Args:
            coordinator: SHA-256 of its authority's certificate.
            say: the site's own log.
            told: told each answered message.
            run: runs the app in a process of its own.

        Raises:
            BundleError: if this image does not know its own bundle.
        """
        self._paths, self._settings, self._runtime, self._egress = paths, settings, runtime, egress
        self._coordinator, self._say, self._told, self._run = coordinator, say, told, run
        self._program = program_digest()
        self._own = files_of(own := own_contents())
        self._own_version = version_of(own)
        self._approvals = Approvals(paths.bundles)
        clear_work(paths.work)

    @property
    def digest(self) -> str:
        """Of this image's own bundle."""
        return bundle_digest(self._own)

    def run_until(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the app's process is ended then and the message refused."""
        while not stop.is_set():
            try:
                pause_s = 0.0 if self.work_once(stop) else POLL_S
            except Exception:  # the next message may be sound; this one ends with Flower's own error
                self._say(f"a message was dropped: {traceback.format_exc()}")
                pause_s = FAULT_S
            stop.wait(pause_s)

    def work_once(self, stop: threading.Event) -> bool:
        """Answer the next message, if there is one; whether there was."""
        task = self._runtime.acquire()
        if task is None:
            return False
        with task:
            received = task.pull()
            request = _Request.of(received)
            outcome = self._outcome(request, received, task, stop)
            if task.lost.is_set():
                self._say(f"{request}: the SuperNode knows it no more; no answer")
                return True
            content = self._check(request, received, outcome)  # in the audit log, whatever comes of the rest
            task.push(Message(content, reply_to=received.message), received.context)
            refused = _refused(content)
            num_bytes = sum(record.count_bytes() for record in content.array_records.values())
            self._say(f"{request}: " + (f"refused: {refused}" if refused else f"{num_bytes} bytes left"))
            self._told(Answered(time.time(), request.study, request.kind, request.round, refused, num_bytes))
        return True

    def _check(self, request: _Request, received: Received, outcome: Outcome) -> RecordDict:
        """What leaves; the one place where an answer is made."""
        content = outcome.content
        if content is None:
            content = refusal(self._settings.name, outcome.line)
        asked = replace(
            self._asked(request, received),
            agreed=agreed_shapes(_content_of(received.message)),
            behind=outcome.behind,
            bundle=outcome.bundle,
            own_line=outcome.content is None,
        )
        return self._egress.check(asked, content)

    def _asked(self, request: _Request, received: Received) -> Leaving:
        """For whom an answer leaves, before there is one."""
        return Leaving(
            message=request.kind,
            study=request.study,
            preset=request.preset,
            coordinator=self._coordinator,
            overrides=request.overrides,
            run_id=received.context.run_id,
            round=request.round,
        )

    def _outcome(self, request: _Request, received: Received, task: Task, stop: threading.Event) -> Outcome:
        try:
            return self._work(request, received, task, stop)
        except Exception as error:  # whatever it is: its text may quote a report or a folder
            self._say(f"{request}: {traceback.format_exc()}")
            return Outcome(None, line=f"failed with {type(error).__name__}; its own log says more")

    def _work(self, request: _Request, received: Received, task: Task, stop: threading.Event) -> Outcome:
        if not received.message.has_content():
            return Outcome(None, line="works on messages, and got one that tells of an error")
        if request.kind not in KINDS:
            return Outcome(None, line="works on the first exchange and on rounds of training, nothing else")
        if line := paused_line(self._paths.paused):
            return Outcome(None, line=line)
        if broken := self._foreseen(request, received):
            return Outcome(None, line=f"its policy {broken.line}")
        try:
            contents = contents_of_fab(received.bundle)
        except BundleError as error:  # its text is about what the coordinator sent
            return Outcome(None, line=f"does not run the study's program: {error}")
        if program_digest() != self._program:
            return Outcome(None, line=_CHANGED)
        files = files_of(contents)
        self._paths.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _folder(self._paths.work) as folder:
            root = ROOT
            if files != self._own:
                digest = bundle_digest(files)
                if not self._approvals.is_approved(digest):
                    return self._wait(digest, received.bundle, files, version_of(contents))
                self._say(f"{request}: runs the approved bundle {digest[:12]}")
                root = folder / "app"
                unpack(received.bundle, root)
            inner = folder / "message"
            inner.mkdir(mode=0o700)
            end = time.monotonic() + seconds_left(received)

            def ended() -> str | None:
                if stop.is_set():
                    return "was stopped by its admin"
                if task.lost.is_set():
                    return "lost the message"
                if stops_now(self._paths.paused):
                    return paused_line(self._paths.paused)
                if time.monotonic() >= end:
                    return "did not finish before its deadline; the process was ended"
                return None

            outcome = self._run(received, self._settings, root, inner, self._paths.state, ended)
            outcome = replace(outcome, bundle=bundle_digest(files))
            if program_digest() != self._program:  # the process may have loaded a part of it late
                return Outcome(None, line=_CHANGED)
            return outcome

    def _foreseen(self, request: _Request, received: Received) -> Broken | None:
        """The rule that no reply to this message could keep: better known before hours of training."""
        enough = dict.fromkeys(BEHIND, sys.maxsize)
        return self._egress.foresee(replace(self._asked(request, received), behind=enough))

    def _wait(self, digest: str, bundle: bytes, files: Mapping[str, str], version: str) -> Outcome:
        """Keep a bundle that nobody approved, and say how it differs."""
        found = difference(self._own, files)
        self._approvals.wait(digest, bundle, found)
        hint = f"climb-site approve {digest}"
        self._say(f"a bundle is not approved, {_differ(found)}; look at it: {hint} --diff")
        if version != self._own_version:
            return Outcome(
                None,
                line=f"runs version {self._own_version}, the study's program is of version "
                f"{version or 'unknown'}: use the image of that version, or the site's admin approves "
                f"{digest[:12]} ({_differ(found)})",
            )
        return Outcome(
            None,
            line=f"does not run the study's program: {_differ(found)} from this site's "
            f"image of the same version {version}: the site's admin approves {digest[:12]}, or not",
        )


@dataclass(frozen=True)
class _Request:
    """What a message says of itself, with names that are safe to write down."""

    kind: str
    study: str
    preset: str
    overrides: str
    """As they came; read by nothing but this program's own reader of settings."""

    round: int

    @staticmethod
    def of(received: Received) -> _Request:
        config = received.context.run_config
        kind = received.message.metadata.message_type
        settings = _content_of(received.message).config_records.get("config")
        round = settings.get("server-round") if settings is not None else None
        return _Request(
            kind if kind in KINDS else "unknown",
            _name(config.get("study")),
            _name(config.get("preset")),
            overrides if isinstance(overrides := config.get("overrides"), str) else "[]",
            round if isinstance(round, int) and not isinstance(round, bool) else 0,
        )

    def __str__(self) -> str:
        return f"{self.study or 'unnamed study'}, {self.kind}, round {self.round}"


def _content_of(message: Message) -> RecordDict:
    """What a message brings; nothing if it tells of an error in its place."""
    return message.content if message.has_content() else RecordDict()


def clear_work(folder: Path) -> None:
    """Remove what a gate that was killed left behind."""
    for left in folder.glob("*"):
        _remove(left)


def _differ(found: Difference) -> str:
    return "1 file differs" if found.num_files == 1 else f"{found.num_files} files differ"


def _name(value: object) -> str:
    return value if isinstance(value, str) and NAME_PATTERN.fullmatch(value) else ""


def _refused(content: RecordDict) -> str:
    record = content.config_records.get("refused")
    return str(record.get(REFUSAL, "")) if record is not None else ""


@contextlib.contextmanager
def _folder(work: Path) -> Generator[Path]:
    """A private folder that is gone afterwards, read-only folders in it too."""
    folder = Path(tempfile.mkdtemp(dir=work))
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for path, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            Path(path).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
