"""What is shipped for a deployment, as far as its text tells: images, compose files, units, list of parts."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import grimp
import pytest
import yaml

SIDES = {"site": "client", "server": "server"}
IMPORTED_AS = {"scikit-learn": "sklearn", "python-gdcm": "gdcm"}
"""Distributions whose module has another name."""

OF_ALL = ("configs", "climb_model", "strategies")
PORT = "8443"


def load(checkout: Path, name: str) -> ModuleType:
    """A script of `deploy/`."""
    spec = importlib.util.spec_from_file_location(f"deploy_{name}", checkout / "deploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def instructions(text: str) -> list[tuple[str, str]]:
    """Instruction and argument of each line of a Dockerfile, continuation lines joined."""
    joined = re.sub(r"\\\n(\s*#.*\n)*", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word.upper(), " ".join(rest.split())) for word, _, rest in found]


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def dockerfile(side: str, checkout: Path) -> list[tuple[str, str]]:
    return instructions((checkout / SIDES[side] / "Dockerfile").read_text("utf-8"))


@pytest.fixture
def service(side: str, checkout: Path) -> dict[str, Any]:
    text = (checkout / "deploy" / f"{side}.compose.yaml").read_text("utf-8")
    return yaml.safe_load(text)["services"][side]


def last_stage(dockerfile: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The instructions after the last FROM."""
    start = max(number for number, (word, _) in enumerate(dockerfile) if word == "FROM")
    return dockerfile[start:]


def test_every_stage_has_the_base_that_the_argument_names(dockerfile: list[tuple[str, str]]) -> None:
    assert dockerfile[0] == ("ARG", "BASE=docker.io/library/python:3.11-slim-bookworm")
    stages = {rest.split(" AS ")[1] for word, rest in dockerfile if word == "FROM" and " AS " in rest}
    bases = {rest.split()[0] for word, rest in dockerfile if word == "FROM"}
    assert bases - stages == {"${BASE}"}


def test_nothing_is_fetched_but_by_pip_and_apt(dockerfile: list[tuple[str, str]]) -> None:
    assert not [rest for word, rest in dockerfile if word == "ADD"]
    assert not [rest for _, rest in dockerfile if re.search(r"\b(curl|wget|git clone)\b", rest)]


def test_all_that_pip_installs_is_pinned(dockerfile: list[tuple[str, str]], checkout: Path) -> None:
    in_force, name, of_stage = False, "", {}
    for word, rest in dockerfile:
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            in_force = of_stage.get(base, False)
        if word == "ENV" and "PIP_CONSTRAINT=/build/constraints.txt" in rest:
            in_force = True
        of_stage[name] = in_force
        if word == "RUN" and "pip install" in rest.replace("--python ${PYTHON} ", ""):
            assert in_force or "sbom-requirements.txt" in rest, rest
    for file in ("constraints.txt", "deploy/sbom-requirements.txt"):
        lines = [line for line in (checkout / file).read_text().splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[\w.\-]+==[\w.]+", line) for line in lines)


def test_torch_is_that_of_the_constraints(dockerfile: list[tuple[str, str]], checkout: Path) -> None:
    pinned = re.search(r"^torch==\S+$", (checkout / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    arguments = dict(rest.partition("=")[::2] for word, rest in dockerfile if word == "ARG" and "=" in rest)
    assert arguments["TORCH"].strip('"') == f"{pinned[0]}+cpu"
    assert load(checkout, "build").TORCH_CPU.startswith(f"{pinned[0].replace('==', '-')}+cpu-")


def test_an_image_runs_as_a_numbered_user_and_starts_the_program(
    side: str, dockerfile: list[tuple[str, str]]
) -> None:
    final = last_stage(dockerfile)
    assert [rest for word, rest in final if word == "USER"] == ["10001:10001"]
    assert [rest for word, rest in final if word == "ENTRYPOINT"] == [f'["climb-{side}"]']
    labels = " ".join(rest for word, rest in final if word == "LABEL")
    for label in ("version", "revision", "licenses", "title"):
        assert f"org.opencontainers.image.{label}=" in labels


def test_the_image_has_the_version_of_the_project(
    dockerfile: list[tuple[str, str]], side: str, service: dict[str, Any], checkout: Path
) -> None:
    version = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert {rest for word, rest in dockerfile if word == "ARG" and "VERSION=" in rest} == {
        f"VERSION={version}"
    }
    assert service["image"].endswith(f":-localhost/climb-{side}:{version}}}")


def test_the_two_images_differ_only_where_they_must(checkout: Path) -> None:
    texts = [
        (checkout / folder / "Dockerfile").read_text("utf-8").replace(f"climb-{side}", "climb-SIDE")
        for side, folder in SIDES.items()
    ]
    site, server = ([f"{word} {rest}" for word, rest in instructions(text)] for text in texts)
    only = [line for line in site if line not in server] + [line for line in server if line not in site]
    allowed = r"requirements\.py|^COPY (client|server)|nginx|^ENV PATH|^WORKDIR|groupadd|^EXPOSE|image\.title"
    assert not [line for line in only if not re.search(allowed, line)]


def test_no_connection_but_the_server_is_set_by_the_image(dockerfile: list[tuple[str, str]]) -> None:
    settings = " ".join(rest for word, rest in last_stage(dockerfile) if word == "ENV").split()
    assert {
        "FLWR_TELEMETRY_ENABLED=0",
        "FLWR_DISABLE_UPDATE_CHECK=1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1",
        "RAY_USAGE_STATS_ENABLED=0",
        "HF_HUB_OFFLINE=1",
        "TRANSFORMERS_OFFLINE=1",
    } <= set(settings)


def test_no_stage_names_this_machine(side: str, checkout: Path) -> None:
    text = (checkout / SIDES[side] / "Dockerfile").read_text("utf-8")
    hosts = set(re.findall(r"https?://([^/\s\"]+)", text))
    assert hosts <= {"download.pytorch.org"}
    assert not re.search(r"PIP_(INDEX|EXTRA|FIND|CERT|TRUSTED)", text)


def test_the_build_sees_code_and_nothing_else(checkout: Path) -> None:
    lines = [
        line for line in (checkout / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {
        *(".gitignore", "README.md", "pyproject.toml", "constraints.txt"),
        *(*OF_ALL, "client", "server"),
        *("deploy/requirements.py", "deploy/sbom.py", "deploy/sbom-requirements.txt"),
    }


def test_an_image_has_all_of_the_bundle(dockerfile: list[tuple[str, str]], checkout: Path) -> None:
    copied = [rest.split()[0] for word, rest in dockerfile if word == "COPY" and "--from" not in rest]
    patterns = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["fab-include"]
    for pattern in patterns:
        whole = pattern.partition("/")[0] in copied
        assert whole or any(fnmatch(pattern, source) for source in copied), pattern


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Who imports whom, others' modules included."""
    return grimp.build_graph(*OF_ALL, *SIDES.values(), include_external_packages=True)


def imported(graph: grimp.ImportGraph, side: str) -> set[str]:
    """Modules of others that the code of an image imports, at whatever depth."""
    ours = {*OF_ALL, *SIDES.values()}
    open_ = [name for name in graph.modules if name.partition(".")[0] == SIDES[side]]
    seen: set[str] = set()
    while open_:
        name = open_.pop()
        if name not in seen:
            seen.add(name)
            if name.partition(".")[0] in ours:
                open_ += graph.find_modules_directly_imported_by(name)
    return {name for name in seen if name.partition(".")[0] not in ours}


def test_what_an_image_leaves_out_is_imported_by_none_of_its_code(
    side: str, graph: grimp.ImportGraph, checkout: Path
) -> None:
    script = load(checkout, "requirements")
    left_out = {IMPORTED_AS.get(name, name) for name in script.LEFT_OUT[side]}
    found = imported(graph, side)
    assert "torch" in found
    assert not left_out & found
    assert "ray" not in found


def test_requirements_are_the_projects_less_what_is_left_out(checkout: Path) -> None:
    script = load(checkout, "requirements")
    pyproject = (checkout / "pyproject.toml").read_text("utf-8")
    site, server = script.requirements("site", pyproject), script.requirements("server", pyproject)
    assert "flwr~=1.41.0" in site
    assert "pydicom" in site
    assert set(server) < set(site)
    assert not any("simulation" in line or "scikit-learn" in line for line in (*site, *server))
    with pytest.raises(ValueError, match="no dependency: opacus"):
        script.requirements("site", pyproject.replace('"opacus"', '"opus"'))


def test_compose_gives_a_container_no_more_than_it_needs(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "10001:10001"
    assert service["restart"] == "unless-stopped"
    assert service["init"] is True
    assert {"mem_limit", "cpus", "pids_limit", "healthcheck"} <= set(service)
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & set(service)
    places = {volume.rpartition(":/")[2] for volume in service["volumes"]}
    assert {"data:ro", "weights:ro"} <= places


def test_only_the_server_has_an_open_port(side: str, service: dict[str, Any]) -> None:
    assert service.get("ports", []) == ([] if side == "site" else [f"{PORT}:{PORT}"])


def test_the_server_is_well_when_its_public_port_answers(service: dict[str, Any], side: str) -> None:
    test = service["healthcheck"]["test"]
    if side == "site":
        assert test == ["CMD", "climb-site", "status"]
        return
    compile(test[3], "healthcheck", "exec")
    assert f":{PORT}/health" in test[3]


@pytest.fixture
def unit(side: str, checkout: Path) -> Path:
    return checkout / "deploy" / f"climb-{side}.service"


def test_a_unit_has_no_privileges(unit: Path, side: str) -> None:
    lines = unit.read_text("utf-8").splitlines()
    assert {
        "User=climb",
        f"ExecStart=/opt/climb/bin/climb-{side} start",
        "Restart=always",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "UMask=0077",
    } <= set(lines)


def test_systemd_takes_the_unit(unit: Path, side: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text("utf-8").replace(f"/opt/climb/bin/climb-{side}", sys.executable))
    told = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def parts() -> Iterator[str]:
    yield "zlib1g\t1:1.2.13.dfsg-1\tamd64\n"
    yield "base-files\t12.4+deb12u1\tall\n"


def test_the_bill_of_materials_names_debians_packages_too(checkout: Path) -> None:
    script = load(checkout, "sbom")
    python = {"type": "library", "name": "torch", "version": "2.13.0", "bom-ref": "torch==2.13.0"}
    before = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "components": [python],
        "metadata": {"tools": {}},
    }
    made = script.with_debian(before, "".join(parts()), image="climb-site", version="0.1.0")
    assert [part["name"] for part in made["components"]] == ["torch", "base-files", "zlib1g"]
    assert made["components"][2]["purl"] == (
        "pkg:deb/debian/zlib1g@1%3A1.2.13.dfsg-1?arch=amd64&distro=debian-12"
    )
    assert made["metadata"]["component"]["version"] == "0.1.0"
    assert before["components"] == [python]
    refs = [part["bom-ref"] for part in made["components"]]
    assert len(set(refs)) == len(refs)


def test_the_list_of_licences_has_texts_and_says_where_debians_are(checkout: Path) -> None:
    text = load(checkout, "sbom").licences("torch\n2.13.0\nBSD-3-Clause\n", "".join(parts()))
    assert "torch\n2.13.0\nBSD-3-Clause\n" in text
    assert "/usr/share/doc/NAME/copyright" in text
    assert text.endswith("base-files 12.4+deb12u1\nzlib1g 1:1.2.13.dfsg-1\n")


def test_a_build_takes_this_machines_pip_settings_along(checkout: Path, tmp_path: Path) -> None:
    script = load(checkout, "build")
    wheels, index, certificate = tmp_path / "wheels", tmp_path / "index", tmp_path / "ca.crt"
    wheels.mkdir()
    (index / "simple").mkdir(parents=True)
    certificate.touch()
    (wheels / script.TORCH_CPU.replace("*", "x")).touch()
    listed = f":env:.cert='{certificate}'\nglobal.cert='/other.crt'\nglobal.find-links='{wheels}'\n"
    listed += f"global.extra-index-url='file://{index}/simple https://mirror.example/simple'\n"
    folder = tmp_path / "mnt"
    folder.mkdir()
    options = script.build_options(script.pip_settings(listed), folder)
    written = (folder / "pip.conf").read_text()
    seen = {option.split(":")[1]: Path(option.split(":")[0]) for option in options if option.endswith(":ro")}
    for setting, path in (("cert", certificate), ("find-links", wheels)):
        place = re.search(rf"^{setting} = (/mnt/\d)$", written, re.MULTILINE)
        assert place is not None
        assert seen[place[1]] == path
    place = re.search(
        r"^extra-index-url = file://(/mnt/\d)/simple https://mirror.example/simple$", written, 8
    )
    assert place is not None
    assert seen[place[1]] == index
    assert seen["/mnt"] == folder
    assert options[-1] == "TORCH_INDEX_URL="


def test_a_machine_without_pip_settings_builds_plainly(checkout: Path, tmp_path: Path) -> None:
    assert load(checkout, "build").build_options({}, tmp_path) == []
