"""Where a hospital's app finds its own folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from client.site import SiteError, site_of
from climb_model.runs import RunError

WHOLE = {"name": "B", "data": "/d", "private": "/p"}


def test_a_deployed_node_names_its_own_folders() -> None:
    site = site_of({**WHOLE, "weights": "/w"}, {})
    assert (site.name, site.data, site.private, site.weights) == ("B", Path("/d"), Path("/p"), Path("/w"))
    assert site_of(WHOLE, {}).weights is None


def test_a_sites_folders_are_not_in_its_repr() -> None:
    assert repr(site_of(WHOLE, {})) == "Site(name='B')"


@pytest.mark.parametrize("key", ["name", "data", "private"])
def test_a_missing_setting_is_named(key: str) -> None:
    with pytest.raises(SiteError, match=f"lack '{key}'"):
        site_of({**WHOLE, key: ""}, {})


@pytest.mark.parametrize("name", ["../B", "a/b", "", "x" * 65, "a\nb", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises((RunError, SiteError)):
        site_of({**WHOLE, "name": name}, {})


def test_flowers_simulation_gives_a_number_and_a_file_gives_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "sites.json"
    file.write_text(json.dumps([{**WHOLE, "name": "A"}, WHOLE]))
    environment = {"CLIMB_SITES": str(file)}
    assert site_of({"partition-id": 1, "num-partitions": 2}, environment).name == "B"
    with pytest.raises(SiteError, match="does not describe this site"):
        site_of({"partition-id": 2}, environment)
    with pytest.raises(SiteError, match="does not describe this site"):
        site_of({"partition-id": 0}, {"CLIMB_SITES": str(tmp_path / "none")})


def test_without_any_setting_the_site_says_what_it_needs() -> None:
    with pytest.raises(SiteError, match="needs --node-config with name, data and private"):
        site_of({}, {})


def test_what_a_site_says_goes_to_its_own_log_with_the_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    site = site_of({**WHOLE, "private": str(tmp_path / "p")}, {})
    site.say("round 1")
    assert capfd.readouterr().err == ""
    site.say("no disk", fault=True)
    first, second = (tmp_path / "p" / "site.log").read_text().splitlines()
    assert first.endswith(f"process {os.getpid()}: round 1")
    assert second.endswith("no disk")


def test_a_site_sets_devices_chunks_and_policy_for_itself() -> None:
    site = site_of({**WHOLE, "devices": "cpu,cpu", "chunk-size": 4, "shared-generators": True}, {})
    assert (site.devices, site.chunk_size, site.shared_generators) == ("cpu,cpu", 4, True)
    plain = site_of(WHOLE, {})
    assert (plain.devices, plain.chunk_size, plain.shared_generators) == ("auto", None, False)


@pytest.mark.parametrize(
    ("key", "value"), [("chunk-size", "-1"), ("chunk-size", "x"), ("shared-generators", "yes")]
)
def test_a_setting_that_makes_no_sense_is_named(key: str, value: str) -> None:
    with pytest.raises(SiteError, match=f"setting {key} must be .*, got '{value}'"):
        site_of({**WHOLE, key: value}, {})
