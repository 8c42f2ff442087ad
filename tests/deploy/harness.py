"""A whole federation of real processes on this machine, made and run through the command lines alone."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from namespaces import Machine
from processes import Program, belonging_to, command_line, signal_quietly, wait_until
from safetensors.torch import load_file
from torch import Tensor

from climb_model.ports import free_port

TINY = (
    "training.num_threads=1",
    "training.steps_per_round=0",
    "evaluation.findings=[Zyste, Karzinom]",
    "evaluation.bootstrap=20",
    "federation.num_rounds=3",
)
"""Of the preset `debug`: one pass over the site's exams a round, about a second."""

LEAST = {"exams": 16, "tokens": 100, "batch_tokens": 10, "steps": 2}
"""Behind an update, in each site's policy: batches of 4 exams whose reports are three short sentences."""

LONG = ("training.steps_per_round=600",)
"""Rounds that train for about ten seconds, so that something can happen in them."""

FULL = (
    "model.vision.width=384",
    "model.text.width=768",
    "model.fusion.width=384",
    "model.fusion.depth=4",
    "model.fusion.heads=12",
    "training.steps_per_round=0",
    "training.batch_size=12",
)
"""The reference model's size: 26 MB of shared weights; one pass over the site's exams in a few steps."""

COMMAND_S = 300.0
START_S = 240.0
ROUND_S = 400.0
SAME = 1e-5


@dataclass(frozen=True)
class Hospitals:
    """Folders of sites and of the coordinator's own exams; nobody writes there."""

    sites: Mapping[str, Path]
    central: Path


class Federation:
    """One coordinator, its sites, and all their processes; ends them when it is closed.

    Args:
        root: new folder for everything.
        host: IP address under which sites reach the server.
    """

    def __init__(self, root: Path, hospitals: Hospitals, *, host: str = "127.0.0.1") -> None:
        self.root, self.hospitals, self.host = root, hospitals, host
        self.home = root / "coordinator"
        self.port = free_port()
        self.server: Program | None = None
        self.sites: dict[str, Program] = {}
        self.app: Path | None = None
        """A checkout that `submit` sends in place of this one."""
        self._private: dict[str, Path] = {}
        self._num_started = 0
        root.mkdir(parents=True, exist_ok=True)
        self.ask("climb-server", "init", "--host", host, "--port", self.port, "--home", self.home)
        settings = yaml.safe_load((self.home / "server.yaml").read_text())
        settings |= {"superlink_port": free_port()}
        (self.home / "server.yaml").write_text(yaml.safe_dump(settings))

    # ---- command lines

    def ask(self, program: str, *arguments: object, wanted: int = 0, app: Path | None = None) -> str:
        """Run a command to its end; returns standard output and error together.

        Raises:
            AssertionError: if it ends with another code than wanted.
        """
        done = self.try_(program, *arguments, app=app)
        words = " ".join(map(str, arguments))
        assert done.returncode == wanted, (
            f"{program} {words}: exit code {done.returncode}, wanted {wanted}\n{done.stdout}"
        )
        return done.stdout

    def try_(
        self, program: str, *arguments: object, app: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is.

        Args:
            app: a checkout whose code it runs in place of this one's.
        """
        return subprocess.run(
            [script(program), *map(str, arguments)],
            env=self.environment(**({} if app is None else {"PYTHONPATH": str(app)})),
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def environment(self, **more: str) -> dict[str, str]:
        """Of a person at a terminal of this machine; no setting of Flower's."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "CLIMB_"))}
        return {**plain, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **more}

    # ---- the server

    def start_server(self) -> Program:
        """`climb-server start`, until sites can reach it."""
        self.server = self._start("server", ["climb-server", "start", "--home", str(self.home)])
        wait_until(self.reachable, START_S, "the server's public port answers", alive=[self.server])
        return self.server

    def reachable(self) -> bool:
        """Whether `/health` answers on the public port."""
        with suppress(OSError):
            return self.get("/health") == 200
        return False

    def get(self, path: str, *, method: str = "GET", body: bytes | None = None) -> int:
        """HTTP status of a request to the public port, as from outside."""
        context = ssl.create_default_context(cafile=str(self.home / "authority" / "ca.crt"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        request = urllib.request.Request(f"https://{self.host}:{self.port}{path}", body, method=method)
        try:
            with opener.open(request, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    # ---- sites

    def node(self, site: str) -> Path:
        """A site's folder."""
        return self.root / "nodes" / site

    def private(self, site: str) -> Path:
        """A site's private folder."""
        return self._private.get(site, self.root / "private" / site)

    def join(self, site: str, *, server: str | None = None, private: Path | None = None) -> Path:
        """Invite, join and admit a site; the server must run. Returns the node's folder.

        Args:
            server: `host:port` that it connects to in place of the server's own, as a relay's.
            private: its private folder.
        """
        if private is not None:
            self._private[site] = private
        self.prepare(site, server=server)
        self.ask("climb-server", "admit", self.node(site) / f"{site}.request.yaml", "--home", self.home)
        return self.node(site)

    def prepare(self, site: str, *, server: str | None = None) -> Path:
        """Invite a site and let it join, without admitting it; returns the node's folder."""
        node = self.node(site)
        node.parent.mkdir(exist_ok=True)
        kit = self.root / f"{site}.kit.yaml"
        self.ask("climb-server", "invite", site, "--home", self.home, "--out", kit)
        self.ask(
            "climb-site",
            "join",
            kit,
            "--data",
            self.hospitals.sites[site],
            "--private",
            self.private(site),
            "--node",
            node,
        )
        self.change_policy(site, minimum=LEAST)
        self.change_node(site, quotas__nice=0)  # machines that test have other work; trainings would wait
        if server is not None:
            self.change_node(site, server=server)
        return node

    def change_node(self, site: str, **values: object) -> None:
        """Set entries of `site.yaml`."""
        change_yaml(self.node(site) / "site.yaml", values)

    def change_policy(self, site: str, **values: object) -> None:
        """Set entries of `policy.yaml`."""
        change_yaml(self.node(site) / "policy.yaml", values)

    def start_site(self, site: str, *, machine: Machine | None = None, **environment: str) -> Program:
        """`climb-site start`, without waiting.

        Args:
            machine: where it runs; None is this machine.
            environment: more of it.
        """
        command = ["climb-site", "start", "--node", str(self.node(site))]
        program = self._start(f"site-{site}", command, machine, environment)
        self.sites[site] = program
        return program

    def wait_online(self, *sites: str, timeout_s: float = START_S) -> None:
        """Wait until the server knows the sites as connected."""

        def online() -> bool:
            listed = json.loads(self.ask("climb-server", "sites", "--json", "--home", self.home))["sites"]
            contacts = {entry["name"]: str(entry["last_contact"]) for entry in listed}
            return all(contacts.get(site, "").startswith("online") for site in sites)

        wait_until(online, timeout_s, f"sites {', '.join(sites)} are online")

    def app_processes(self, site: str) -> list[int]:
        """Processes in which the site's app works on a message now."""
        return [pid for pid in self.sites[site].tree() if "/client/node/app_process.py " in command_line(pid)]

    # ---- studies

    def out(self, study: str) -> Path:
        """A study's run folder."""
        return self.root / "runs" / study

    def submit(self, study: str, *overrides: str, sites: int, preset: str = "debug") -> str:
        """`climb-server run`, which starts a study and returns."""
        return self.ask(
            "climb-server",
            "run",
            "--preset",
            preset,
            "--central",
            self.hospitals.central,
            "--out",
            self.out(study),
            "--sites",
            sites,
            "--home",
            self.home,
            *TINY,
            *overrides,
            app=self.app,
        )

    def history(self, study: str) -> list[dict[str, Any]]:
        """The rounds so far, from round 0."""
        file = self.out(study) / "history.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def summary(self, study: str) -> dict[str, Any] | None:
        """What the study ended with; None while it has not."""
        file = self.out(study) / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None

    def failure(self, study: str) -> str | None:
        """The line with which the study's last attempt failed."""
        file = self.out(study) / "failure.txt"
        return file.read_text().strip() if file.exists() else None

    def wait_round(self, study: str, number: int, timeout_s: float = ROUND_S) -> float:
        """Wait until a round is on disk; returns the seconds that it took."""

        def there() -> bool:
            assert self.failure(study) is None, f"study {study}: {self.failure(study)}"
            return any(record["round"] >= number for record in self.history(study))

        return wait_until(there, timeout_s, f"study {study}: round {number}")

    def wait_end(self, study: str, timeout_s: float = 2 * ROUND_S) -> dict[str, Any]:
        """Wait for the end of a study; returns its summary."""

        def ended() -> bool:
            assert self.failure(study) is None, f"study {study}: {self.failure(study)}"
            return self.summary(study) is not None

        wait_until(ended, timeout_s, f"study {study}: its end")
        summary = self.summary(study)
        assert summary is not None
        return summary

    def shared(self, study: str) -> dict[str, Tensor]:
        """The final shared weights."""
        return load_file(self.out(study) / "shared.safetensors")

    # ---- the end

    def close(self) -> None:
        """End everything."""
        for program in (*self.sites.values(), *([self.server] if self.server else [])):
            if program.code is None:
                with suppress(AssertionError):
                    program.stop(15)
        for pid in belonging_to(self.root):
            signal_quietly(pid, 9)

    def logs(self, lines: int = 40) -> str:
        """The ends of all logs, for a test that fails."""
        shown: list[str] = []
        for path in sorted(self.root.rglob("*.log")):
            tail = path.read_text("utf-8", "replace").splitlines()[-lines:]
            shown.append("\n".join([f"==== {path.relative_to(self.root)}", *tail]))
        return "\n".join(shown)

    def _start(
        self,
        name: str,
        command: Sequence[str],
        machine: Machine | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        self._num_started += 1
        whole = [script(command[0]), *command[1:]]
        log = self.root / "logs" / f"{self._num_started:02d}-{name}.log"
        return Program(
            machine.command(*whole) if machine else whole, self.environment(**(environment or {})), log
        )


def change_yaml(path: Path, values: Mapping[str, object]) -> None:
    """Set entries of a YAML file, dotted ones inside sections."""
    content = yaml.safe_load(path.read_text("utf-8"))
    for key, value in values.items():
        section = content
        *sections, last = key.split("__")
        for part in sections:
            section = section[part]
        section[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def script(name: str) -> str:
    """A console script of this environment."""
    return str(Path(sys.executable).parent / name)


def furthest(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Largest difference of two sets of weights of the same names."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


def missing() -> str | None:
    """Why no federation can run on this machine, or None."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    return None if shutil.which("nginx", path=path) else "a federation needs nginx as its public port"
