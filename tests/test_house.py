"""The house: packages, commands, pins, the Flower bundle, and what must not be in the tree."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import grimp
import pytest

PACKAGES = ("configs", "climb_model", "strategies", "server", "client", "simulation")
DATA_DOOR = ("climb_model/intake/", "climb_model/checking/", "climb_model/data/synthetic_dicom/")
GUARDS = ("client/node/", "client/egress/", "client/kit/", "server/deployment/")
BUNDLED = ("configs", "climb_model", "strategies", "server", "client")
COMMANDS = {
    "climb-sim": ("demo", "make-data", "make-dicom", "run", "model"),
    "climb-site": (
        *("import", "check", "forget", "train", "evaluate", "similar"),
        *("join", "start", "pause", "status", "preview", "approve", "audit", "leave"),
    ),
    "climb-server": (
        *("init", "renew", "start", "invite", "admit", "revoke", "sites"),
        *("run", "status", "stop", "resume", "evaluate", "card"),
    ),
}
MAX_BUNDLE = 1_000_000
"""Bytes: a tenth of what Flower accepts."""


def script(name: str) -> Path:
    return Path(sys.executable).parent / name


@pytest.fixture(scope="module")
def project(checkout: Path) -> dict[str, object]:
    return tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_this_checkout_s(package: str, checkout: Path) -> None:
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file).resolve() == checkout / package / "__init__.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_this_checkout_s_from_any_folder(
    package: str, checkout: Path, tmp_path: Path
) -> None:
    code = f"import {package}; print({package}.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).resolve() == checkout / package / "__init__.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers_in_under_a_second_and_names_each_verb(name: str) -> None:
    seconds: list[float] = []
    for _ in range(3):
        start = os.times()
        found = subprocess.run([script(name), "--help"], capture_output=True, text=True, check=True)
        end = os.times()  # processor time: the machine may have other work
        seconds.append(end.children_user + end.children_system - start.children_user - start.children_system)
    assert min(seconds) < 1.0
    assert all(re.search(rf"^ +{verb}\b", found.stdout, re.MULTILINE) for verb in COMMANDS[name])
    assert "not a medical device" in " ".join(found.stdout.split())


@pytest.mark.parametrize(
    ("name", "verb"), [(name, verb) for name, verbs in COMMANDS.items() for verb in verbs]
)
def test_the_help_of_a_verb_needs_neither_torch_nor_flower(name: str, verb: str) -> None:
    module = {"climb-sim": "simulation", "climb-site": "client", "climb-server": "server"}[name]
    code = (
        f"import sys\nfrom {module}.cli import main\n"
        f"try: main(['{verb}', '--help'])\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "sys.exit(any(heavy in sys.modules for heavy in ('torch', 'flwr', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_it_cannot_be_uploaded_by_mistake(project: dict[str, dict[str, list[str]]]) -> None:
    assert "Private :: Do Not Upload" in project["project"]["classifiers"]


def test_every_dependency_is_pinned_to_one_public_version(
    checkout: Path, project: dict[str, dict[str, list[str]]]
) -> None:
    lines = (checkout / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines)
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values())
    assert pins["torch"] == "2.13.0"
    extras = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    needed = [
        re.split(r"[\[<>=~]", wish)[0] for wish in [*project["project"]["dependencies"], *extras["dev"]]
    ]
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in needed} <= pinned
    assert "climb-federated" not in pinned


@pytest.fixture(scope="module")
def bundle(
    checkout: Path, checkout_files: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The Flower bundle of the files in this checkout, built as `flwr build` does."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("bundle")
    for file in checkout_files:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkout / file, copy / file)
    built = subprocess.run(
        [script("flwr"), "build", "--app", copy], cwd=out, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = out.glob("*.fab")
    return found


def test_the_bundle_is_well_under_a_megabyte(bundle: Path) -> None:
    assert bundle.stat().st_size < MAX_BUNDLE


def test_the_bundle_holds_what_the_two_apps_import_and_nothing_else(
    bundle: Path, checkout_files: tuple[Path, ...]
) -> None:
    held = set(zipfile.ZipFile(bundle).namelist()) - {"pyproject.toml", ".info/CONTENT"}
    graph = grimp.build_graph(*BUNDLED)
    modules = {"client.app", "server.app"}
    modules = modules.union(*(graph.find_upstream_modules(app) for app in modules))
    parts = [name.split(".") for name in modules]
    modules |= {".".join(name[:depth]) for name in parts for depth in range(1, len(name))}
    paths = {name.replace(".", "/") for name in modules}
    files = {file.as_posix() for file in checkout_files}
    code = {name for path in paths for name in (f"{path}.py", f"{path}/__init__.py") if name in files}
    assert {name for name in held if name.endswith(".py")} == code
    assert not [name for name in held if name.startswith((*DATA_DOOR, *GUARDS))]
    beside = {name for name in files if name.endswith((".yaml", ".json")) and name.split("/")[0] in BUNDLED}
    assert held - code == {name for name in beside if not name.startswith((*DATA_DOOR, *GUARDS))}
    assert {"client/app.py", "server/app.py", "climb_model/sharing.py", "configs/climb.yaml"} <= held


def test_flower_s_run_settings_are_four_and_none_is_a_path(bundle: Path) -> None:
    content = zipfile.ZipFile(bundle).read("pyproject.toml").decode("utf-8")
    app = tomllib.loads(content)["tool"]["flwr"]["app"]
    assert set(app["config"]) == {"study", "study-number", "preset", "overrides"}
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}


def test_no_file_names_this_machine(checkout: Path, checkout_files: tuple[Path, ...]) -> None:
    """Only `.ci/run` knows where the assets lie beside a checkout."""
    beside = "../" + "shared"
    machine = ["/" + name + "/" for name in ("work", "root")] + [str(checkout)]
    for file in checkout_files:
        text = (checkout / file).read_bytes().decode("utf-8", errors="replace")
        assert not [name for name in machine if name in text], file
        assert beside not in text or file == Path(".ci/run"), file


def test_the_make_targets_and_the_check_script_are_there(checkout: Path) -> None:
    makefile = (checkout / "Makefile").read_text("utf-8")
    for target in ("demo", "test", "test-long", "test-deploy", "lint"):
        assert re.search(rf"^{target}: \$\(READY\)$", makefile, re.MULTILINE)
    assert os.access(checkout / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("file", ["a/scan.dcm", "scan.nii", "scan.NII.GZ", "weights.pt"])
def test_the_commit_hook_blocks_images_and_weights(file: str, checkout: Path) -> None:
    hooks = (checkout / ".pre-commit-config.yaml").read_text("utf-8")
    (pattern,) = re.findall(r"files: '(.*)'", hooks)
    assert re.search(pattern, file)
    assert not re.search(pattern, "climb_model/data/dicom.py")
