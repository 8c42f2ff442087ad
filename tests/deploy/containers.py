"""Images and containers by podman, each container as its compose file tells; for the container tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from processes import descendants

BASE = "docker.io/library/python:3.11-slim-bookworm"
USER = 10001
BUILD_S = 2400.0
COMMAND_S = 300.0

# What runs on every machine on which we test: no cgroup manager, old kernels' limits.
_RUN = ("--runtime", "runc", "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=1024:1024")
_BUILD = ("--isolation", "chroot", "--network", "host")

_SWITCHES = {"read_only": "--read-only", "init": "--init"}
_VALUES = {"user": "--user", "mem_limit": "--memory", "cpus": "--cpus", "pids_limit": "--pids-limit"}
_LISTS = {
    "cap_drop": "--cap-drop",
    "tmpfs": "--tmpfs",
    "volumes": "--volume",
    "security_opt": "--security-opt",
}
_NOT_TESTED = frozenset(
    {"image", "command", "restart", "ports", "healthcheck", "logging", "stop_grace_period"}
)
"""Keys of a compose file that are no option of the containers that a test runs."""


def missing() -> str | None:
    """Why no container can run on this machine, or None."""
    if os.geteuid() != 0:
        return "the container tests need root"
    for program in ("podman", "runc"):
        if shutil.which(program) is None:
            return f"the container tests need {program}"
    if podman("image", "exists", BASE, check=False).returncode:
        return f"the container tests need the image {BASE}"
    return None


def podman(*arguments: object, check: bool = True, timeout_s: float = COMMAND_S) -> Any:
    """Run podman to its end.

    Raises:
        AssertionError: if it ends with another code than 0 and `check` is set.
    """
    done = subprocess.run(
        ["podman", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    words = " ".join(map(str, arguments))
    assert not check or done.returncode == 0, f"podman {words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def build(checkout: Path, side: str) -> str:
    """Build an image of this checkout; returns its name."""
    tag = f"localhost/climb-{side}:tested"
    done = subprocess.run(
        ["python3", "deploy/build.py", side, "--tag", tag, *_BUILD],
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return tag


def compose(checkout: Path, side: str) -> dict[str, Any]:
    """The service of a compose file."""
    text = (checkout / "deploy" / f"{side}.compose.yaml").read_text("utf-8")
    return yaml.safe_load(text)["services"][side]


def options(service: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Podman's options for a service.

    Args:
        folder: where the compose file would lie; its relative volumes are below it.
        environment: variables that the file names.

    Raises:
        AssertionError: if the file has a key that these tests know nothing of.
    """
    found: list[str] = []
    for key, value in service.items():
        if key in _SWITCHES:
            found += [_SWITCHES[key]] * bool(value)
        elif key in _VALUES:
            found += [_VALUES[key], str(value)]
        elif key in _LISTS:
            for each in value:
                text = _filled(each, environment).replace("-privileges:true", "-privileges")
                text = f"{folder}{text[1:]}" if text.startswith("./") else text
                found += [_LISTS[key], text]
        else:
            assert key in _NOT_TESTED, key
    return found


def _filled(text: str, environment: Mapping[str, str]) -> str:
    """Compose's `${NAME:-default}` and `${NAME:?message}` with their values."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        assert kind == "-" or name in environment, f"{name} is not set: {rest}"
        return environment.get(name, rest)

    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", value, text)


class Container:
    """One container; `options` are podman's."""

    def __init__(self, name: str, image: str, given: Sequence[str]) -> None:
        self.name, self._image, self._options = name, image, [*_RUN, *given]

    def once(self, *command: object, options: Sequence[str] = (), check: bool = True) -> str:
        """Run a command in a container of its own; returns what it wrote."""
        done = podman("run", "--rm", *self._options, *options, self._image, *command, check=check)
        return done.stdout + done.stderr

    def start(self, *command: object) -> None:
        """Start the container in the background."""
        podman("run", "--detach", "--name", self.name, *self._options, self._image, *command)

    def exec(self, *command: object, check: bool = True) -> Any:
        """Run a command in the running container."""
        return podman("exec", self.name, *command, check=check)

    @property
    def running(self) -> bool:
        """Whether its first process is there."""
        return self.inspect()["State"]["Running"]

    def inspect(self) -> dict[str, Any]:
        """What podman knows of it."""
        return json.loads(podman("inspect", self.name).stdout)[0]

    def processes(self) -> list[int]:
        """Its processes, by their numbers on this machine."""
        first = int(self.inspect()["State"]["Pid"])
        return [first, *descendants(first)]

    def changes(self) -> list[str]:
        """Paths that differ from the image, outside of what is mounted."""
        return [line.split(" ", 1)[1] for line in podman("diff", self.name).stdout.splitlines()]

    def stop(self, timeout_s: int) -> int:
        """SIGTERM, then SIGKILL; returns the exit code."""
        podman("stop", "--time", timeout_s, self.name)
        return int(self.inspect()["State"]["ExitCode"])

    def logs(self) -> str:
        """What it wrote."""
        done = podman("logs", self.name, check=False)
        return f"==== {self.name}\n{done.stdout}{done.stderr}"

    def remove(self) -> None:
        """End it, whatever it does."""
        podman("rm", "--force", "--time", "2", self.name, check=False)
