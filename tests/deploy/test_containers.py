"""The images built and run: one server and two sites in containers, three rounds over TLS."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from containers import BASE, USER, Container, build, compose, missing, options, podman
from harness import LEAST, SAME, TINY, Hospitals, change_yaml, furthest, script
from safetensors.torch import load_file

from client.node.bundle import bundle_digest, own_files

pytestmark = pytest.mark.deploy

SITES = ("A", "B")
STUDY = "study"
SIDES = ("site", "server")
ONE_THREAD = ("--env", "OMP_NUM_THREADS=1", "--env", "OMP_WAIT_POLICY=passive")
READY_S, STUDY_S, STOP_S = 240.0, 900.0, 60


@pytest.fixture(scope="module")
def images(checkout: Path) -> dict[str, str]:
    """Both images of this checkout, by side."""
    why = missing()
    if why:
        pytest.skip(why)
    return {side: build(checkout, side) for side in SIDES}


@dataclass(frozen=True)
class Study:
    """A federation of containers whose study has ended; they still run."""

    folder: Path
    server: Container
    sites: Mapping[str, Container]
    before: Mapping[str, float]
    """Files of the sites' exams and when they were changed, before all."""

    @property
    def run(self) -> Path:
        """The study's run folder."""
        return self.folder / "server" / "runs" / STUDY

    @property
    def containers(self) -> list[Container]:
        """All of them."""
        return [self.server, *self.sites.values()]


@pytest.fixture(scope="module")
def study(
    images: Mapping[str, str],
    hospitals: Hospitals,
    checkout: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Study]:
    """From `init` to the end of three rounds, with the commands of the compose files' comments."""
    folder = tmp_path_factory.mktemp("containers")
    mark = f"climb-test-{uuid.uuid4().hex[:8]}"
    podman("network", "create", "--internal", mark)
    made: list[Container] = []
    try:
        address = str(third_address(mark))
        server = container(mark, "server", "server", images, checkout, folder, hospitals.central, address)
        made.append(server)
        server.once("init", "--host", address)
        server.start("start")
        home = folder / "server" / "coordinator"
        wait_until(lambda: healthy(server, checkout, "server"), READY_S, [server])
        sites: dict[str, Container] = {}
        for name in SITES:
            site = container(mark, name, "site", images, checkout, folder, hospitals.sites[name])
            made.append(site)
            server.exec("climb-server", "invite", name)
            kit = home / f"{name}.kit.yaml"
            volume = ("--volume", f"{kit}:/kit.yaml:ro")
            site.once("join", "/kit.yaml", "--data", "/data", "--private", "/private", options=volume)
            change_yaml(folder / name / "node" / "policy.yaml", {"minimum": LEAST})
            request = shutil.copy(folder / name / "node" / f"{name}.request.yaml", home)
            os.chown(request, USER, USER)
            server.exec("climb-server", "admit", f"{name}.request.yaml")
            site.start("start")
            sites[name] = site
        for site in sites.values():
            wait_until(lambda site=site: healthy(site, checkout, "site"), READY_S, made)
        before = {
            str(path): path.stat().st_mtime for name in SITES for path in hospitals.sites[name].rglob("*")
        }
        begun = Study(folder, server, sites, before)
        server.exec(
            "climb-server",
            "run",
            *("--preset", "debug", "--central", "/data", "--out", f"/runs/{STUDY}", "--sites", len(SITES)),
            *TINY,
        )
        wait_until(lambda: (begun.run / "summary.json").exists(), STUDY_S, made, failure=begun.run)
        yield begun
    except BaseException:
        for each in made:
            print(each.logs())  # noqa: T201
        raise
    finally:
        for each in reversed(made):
            each.remove()
        podman("network", "rm", "--force", mark, check=False)


def container(
    mark: str,
    name: str,
    side: str,
    images: Mapping[str, str],
    checkout: Path,
    folder: Path,
    data: Path,
    address: str | None = None,
) -> Container:
    """A container as its compose file says, in the test's own network."""
    service = compose(checkout, side)
    place = folder / name
    for volume in service["volumes"]:
        if volume.startswith("./"):
            own = place / volume.partition(":")[0]
            own.mkdir(mode=0o700, parents=True)
            os.chown(own, USER, USER)
    (place / "weights").mkdir(exist_ok=True)
    given = options(service, place, {"CLIMB_DATA": str(data)})
    given += [*ONE_THREAD, "--network", mark, *(("--ip", address) if address else ())]
    return Container(f"{mark}-{name}", images[side], given)


def third_address(network: str) -> ipaddress.IPv4Address:
    """An address that podman gives to nobody by itself so soon."""
    found = json.loads(podman("network", "inspect", network).stdout)[0]
    return list(ipaddress.IPv4Network(found["subnets"][0]["subnet"]).hosts())[99]


def healthy(one: Container, checkout: Path, side: str) -> bool:
    """Whether the health check of the compose file passes."""
    command = compose(checkout, side)["healthcheck"]["test"]
    assert command[0] == "CMD"
    return one.exec(*command[1:], check=False).returncode == 0


def wait_until(true: Any, timeout_s: float, alive: list[Container], *, failure: Path | None = None) -> None:
    """Wait for something; fails if a started container ends, or the study does."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"not within {timeout_s:g} s"
        if failure is not None and (failure / "failure.txt").exists():
            raise AssertionError((failure / "failure.txt").read_text())
        names = podman("ps", "--all", "--filter", "status=exited", "--format", "{{.Names}}").stdout.split()
        assert not {one.name for one in alive} & set(names), f"ended: {names}"
        time.sleep(2)


def in_image(image: str, code: str) -> str:
    """What Python prints in a fresh container without a network."""
    one = Container("", image, ["--network", "none", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp"])
    return one.once("-c", code, options=("--entrypoint", "python")).strip()


def test_three_rounds_give_the_simulations_weights(
    study: Study, hospitals: Hospitals, tmp_path: Path
) -> None:
    history = [json.loads(line) for line in (study.run / "history.jsonl").read_text().splitlines()]
    assert [sorted(record["sites"]) for record in history] == [[], *[list(SITES)] * 3]
    assert not any(record["rejected"] for record in history)
    data = tmp_path / "data"
    for name in SITES:
        shutil.copytree(hospitals.sites[name], data / name)
    command = [script("climb-sim"), "run", "--preset", "debug", "--data", data, *TINY]
    simulated = tmp_path / STUDY
    subprocess.run(
        [*command, "--central", hospitals.central, "--out", simulated],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    ours, theirs = (load_file(run / "shared.safetensors") for run in (study.run, simulated))
    distance = furthest(ours, theirs)
    print(f"largest difference {distance:g} of {len(ours)} tensors")  # noqa: T201
    assert distance <= SAME


def test_each_site_s_audit_log_is_whole_and_tells_all_replies(study: Study) -> None:
    for name, site in study.sites.items():
        told = site.exec("climb-site", "audit", "log").stdout
        print(told)  # noqa: T201
        lines = (study.folder / name / "private" / "audit.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert f"{len(entries)} entries, each as it was written" in told
        sent = [entry["fields"]["message"] for entry in entries if entry["kind"] == "sent"]
        assert sent == ["query.hello", *["train"] * 3]


def test_no_process_has_rights(study: Study) -> None:
    for one in study.containers:
        processes = one.processes()
        assert len(processes) >= 2
        for pid in processes:
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if ":\t" in line
            )
            assert set(status["Uid"].split()) == {str(USER)}, (one.name, status["Name"])
            assert {int(status[key], 16) for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
            assert status["NoNewPrivs"] == "1"
            assert status["Seccomp"] == "2"


def test_nothing_is_written_outside_the_volumes(study: Study, hospitals: Hospitals) -> None:
    for one in study.containers:
        told = one.inspect()
        assert told["HostConfig"]["ReadonlyRootfs"]
        assert not {mount["Destination"] for mount in told["Mounts"] if mount["RW"]} & {"/data", "/weights"}
        mounted = [mount["Destination"] for mount in told["Mounts"]]
        own = (
            "/run",
            "/dev",
            "/proc",
            "/sys",
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/etc/mtab",
            "/tmp",
        )
        strange = [path for path in one.changes() if path != "/etc" and not path.startswith((*mounted, *own))]
        assert not strange, one.name
        for folder in ("/app", "/opt/climb", "/data", "/weights"):
            assert one.exec("touch", f"{folder}/written", check=False).returncode != 0
    after = {str(path): path.stat().st_mtime for name in SITES for path in hospitals.sites[name].rglob("*")}
    assert after == dict(study.before)


def test_what_is_written_is_for_its_user_alone(study: Study) -> None:
    for name in SITES:
        for secret in ("node.key", "superexec.secret"):
            found = (study.folder / name / "node" / secret).stat()
            assert (found.st_uid, found.st_mode & 0o777) == (USER, 0o600), secret


def test_a_site_reaches_the_public_port_and_no_other(study: Study) -> None:
    host = study.server.inspect()["NetworkSettings"]["Networks"].popitem()[1]["IPAddress"]
    code = (
        "import socket, sys\n"
        "def opens(port):\n"
        "    with socket.socket() as one:\n"
        "        one.settimeout(3)\n"
        f"        return one.connect_ex(('{host}', port)) == 0\n"
        "print([port for port in (443, 8000, 8443, 9091, 9092, 9093, 18443) if opens(port)])"
    )
    assert study.sites["A"].exec("python", "-c", code).stdout.strip() == "[8443]"


def test_a_checkout_and_both_images_have_the_same_bundle(images: Mapping[str, str]) -> None:
    here = bundle_digest(own_files())
    site = "from client.node.bundle import *; print(bundle_digest(own_files()))"
    server = (
        "from server.deployment.bundle import *; from server.deployment.flower import *; "
        "print(bundle_digest(app_folder()))"
    )
    print(f"bundle {here}")  # noqa: T201
    assert in_image(images["site"], site) == here
    assert in_image(images["server"], server) == here


@pytest.mark.parametrize("side", SIDES)
def test_an_image_holds_what_it_lists_and_nothing_that_installs(
    side: str, images: Mapping[str, str], checkout: Path
) -> None:
    code = """
import importlib.metadata as m, importlib.util as u, json, os, pathlib, stat, sys
bom = json.loads(pathlib.Path("/app/SBOM.cdx.json").read_bytes())
licences = pathlib.Path("/app/LICENSES.txt").read_text()
def special(path):
    try: mode = os.lstat(path).st_mode
    except OSError: return False
    return stat.S_ISREG(mode) and bool(mode & (stat.S_ISUID | stat.S_ISGID))
places = [os.path.join(top, name) for top, _, names in os.walk("/") if not top.startswith(("/proc", "/sys"))
          for name in names]
print(json.dumps({
    "installed": {d.name: d.version for d in m.distributions()},
    "listed": [[c["name"], c["version"], c.get("purl", "")] for c in bom["components"]],
    "spec": [bom["bomFormat"], bom["metadata"]["component"]["name"]],
    "licences": [d.name for d in m.distributions() if d.name + "\\n" not in licences],
    "installers": [name for name in ("pip", "uv") if u.find_spec(name)],
    "special": [p for p in places if special(p)],
    "caches": [
        p for p in ("/var/lib/apt/lists/lock", "/build", "/opt/tools", "/opt/wheels") if os.path.exists(p)],
    "writable": [p for p in places if p.startswith(("/app", "/opt")) and os.access(p, os.W_OK)],
}))
"""
    found = json.loads(in_image(images[side], code))
    pins = dict(line.split("==") for line in (checkout / "constraints.txt").read_text().split())
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    listed = {(name, version) for name, version, purl in found["listed"] if not purl.startswith("pkg:deb")}
    for name, version in found["installed"].items():
        assert (name, version) in listed
        if name != "climb-federated":
            assert pins[re.sub(r"[-_.]+", "-", name).lower()] == version.partition("+")[0], name
    debian = {name for name, _, purl in found["listed"] if purl.startswith("pkg:deb/debian/")}
    assert "libc6" in debian
    assert ("nginx-light" in debian) == (side == "server")
    assert found["spec"] == ["CycloneDX", f"climb-{side}"]
    assert not found["licences"]
    assert not found["installers"]
    assert not found["special"]
    assert not found["caches"]
    assert not found["writable"]


@pytest.mark.parametrize("side", SIDES)
def test_an_image_is_labelled_and_small(side: str, images: Mapping[str, str]) -> None:
    told = json.loads(podman("image", "inspect", images[side]).stdout)[0]
    base = json.loads(podman("image", "inspect", BASE).stdout)[0]
    labels = told["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == f"climb-{side}"
    assert re.fullmatch(r"[0-9a-f]{40}(-changed)?", labels["org.opencontainers.image.revision"])
    added = (told["Size"] - base["Size"]) / 1e6
    print(f"{side}: {told['Size'] / 1e6:.0f} MB, {added:.0f} MB of them on the base")  # noqa: T201
    assert added < 2000


def test_containers_stop_when_they_are_told_to(study: Study) -> None:
    for one in (*study.sites.values(), study.server):
        begin = time.monotonic()
        code = one.stop(STOP_S)
        print(f"{one.name}: {code} after {time.monotonic() - begin:.0f} s")  # noqa: T201
        assert code == 0, one.logs()
        assert time.monotonic() - begin < STOP_S
