"""`site.yaml`: read back equal, and every mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.node.settings import (
    NodeError,
    NodePaths,
    NodeSettings,
    Quotas,
    names_devices,
    read_node,
    write_node,
)
from client.site import site_of
from configs.errors import UsageError, UserError

SETTINGS = NodeSettings(
    name="München-1",
    server="[2001:db8::1]:8443",
    data=Path("/data/site"),
    private=Path("/private"),
    weights=Path("/weights"),
    devices="cuda:0",
    chunk_size=4,
    shared_generators=True,
    quotas=Quotas(gpu_memory_share=0.5, min_free_gpu_mib=8000, num_threads=4, nice=15),
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_node(tmp_path, SETTINGS)
    assert read_node(tmp_path) == SETTINGS


def test_the_app_gets_what_the_settings_say() -> None:
    site = site_of(SETTINGS.node_config())
    assert (site.name, site.data, site.private, site.weights) == (
        "München-1",
        Path("/data/site"),
        Path("/private"),
        Path("/weights"),
    )
    assert (site.devices, site.chunk_size, site.shared_generators) == ("cuda:0", 4, True)


def test_defaults_stand_in_for_what_is_left_out(tmp_path: Path) -> None:
    NodePaths(tmp_path).settings.write_text("name: A\nserver: a.b:1\ndata: /d\nprivate: /p\n")
    read = read_node(tmp_path)
    assert (read.weights, read.devices, read.chunk_size, read.quotas) == (None, "auto", None, Quotas())
    assert read.node_config().keys() == {"name", "data", "private", "devices", "shared-generators"}


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ("server must be host:port", "server: https://host:8443\n"),
        ("server must be host:port", "server: host:99999\n"),
        ("unknown key 'sever'", "server: a:1\nsever: b\n"),
        ("nice must be 0 to 19", "quotas: {nice: -5}\n"),
        ("gpu_memory_share must be in", "quotas: {gpu_memory_share: 1.5}\n"),
        ("num_threads must be int", "quotas: {num_threads: many}\n"),
        ("devices must be auto, cpu or such as cuda:0,cuda:1, got 'gpu7'", "devices: gpu7\n"),
        ("chunk_size must be int", "chunk_size: true\n"),
        ("unknown key 'gpu'", "quotas: {gpu: 1}\n"),
        ("site is named with", "name: a/b\n"),
        ("shared_generators must be bool", "shared_generators: 1\n"),
        ("must hold key: value", "- a\n"),
        ("is no YAML", "a: [\n"),
    ],
)
def test_a_mistake_is_named(told: str, text: str, tmp_path: Path) -> None:
    whole = {"name": "A", "server": "a.b:1", "data": "/d", "private": "/p"}
    kept = (
        ""
        if text.startswith(("- ", "a: ["))
        else "".join(f"{key}: {value}\n" for key, value in whole.items() if f"{key}: " not in text)
    )
    NodePaths(tmp_path).settings.write_text(kept + text)
    with pytest.raises(UserError, match=told):
        read_node(tmp_path)


@pytest.mark.parametrize("text", ["auto", "cpu", "cpu,cpu", "cuda", "cuda:0,cuda:11", "cuda:0, cuda:1"])
def test_a_list_of_devices_is_known_by_its_form(text: str) -> None:
    assert names_devices(text)


@pytest.mark.parametrize("text", ["", "gpu7", "cuda:", "cuda:x", "cuda:0,", "auto,cpu", "cpu cpu", "cuda0"])
def test_what_names_no_devices_is_known_too(text: str) -> None:
    assert not names_devices(text)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="climb-site join"):
        read_node(tmp_path)
    NodePaths(tmp_path).settings.write_text("name: A\n")
    with pytest.raises(NodeError, match="lacks 'server'"):
        read_node(tmp_path)


def test_no_folder_of_the_hospital_is_in_the_settings_text() -> None:
    assert "/data/site" not in repr(SETTINGS)
    assert "/private" not in repr(SETTINGS)
