"""What the coordinator's commands say where a file of the folder or an argument is wrong: one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from climb_model.ports import free_port
from server.cli import main
from server.deployment.home import Home, HomeSettings

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", HomeSettings(host="localhost", superlink_port=free_port()))


@pytest.mark.parametrize("days", ["0", "366", "3000000", "1.5", "many"])
def test_an_invitation_is_good_for_a_day_to_a_year(days: str, home: Home, command: Command) -> None:
    code, out, err = command(main, "invite", "A", "--days", days, "--home", home.path)
    assert (code, out) == (2, "")
    assert f"argument --days: must be from 1 to 365 days, got '{days}'" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("--host", "http://foo:bar/", "--host must be a name or IP address, got 'http://foo:bar/'"),
        ("--port", "70000", "--port must be a port from 1 to 65535, got 70000"),
        ("--port", "18443", "--port and superlink_port must differ, got 18443 twice"),
    ],
)
def test_init_names_the_option_that_is_wrong(
    option: str, value: str, line: str, tmp_path: Path, command: Command
) -> None:
    arguments = {"--host": "localhost", option: value}
    words = [word for pair in arguments.items() for word in pair]
    assert command(main, "init", *words, "--home", tmp_path / "home") == (2, "", f"climb-server: {line}\n")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["tls/server.crt", "tls/loopback.crt", "authority/ca.crt"])
@pytest.mark.parametrize("verb", ["sites", "status"])
def test_sites_and_status_are_shown_without_a_certificate(
    verb: str, name: str, home: Home, command: Command
) -> None:
    (home.path / name).unlink()
    code, out, _ = command(main, verb, "--home", home.path)
    assert code == 0
    assert out.count("MISSING or damaged") == 1
    assert out.count("good until") == 2
    code, out, _ = command(main, verb, "--home", home.path, "--json")
    assert code == 0
    dates = json.loads(out)["certificates"].values()
    assert len([date for date in dates if date in (None, {"until": None, "days_left": None})]) == 1


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"text\n"])
@pytest.mark.parametrize(
    "words", [["invite", "A"], ["admit", "--lost"], ["renew"], ["renew", "--ca"], ["start"]], ids=" ".join
)
def test_what_needs_the_authority_s_certificate_says_so(
    words: list[str], content: bytes | None, home: Home, tmp_path: Path, command: Command
) -> None:
    home.ca_certificate.unlink()
    if content is not None:
        home.ca_certificate.write_bytes(content)
    out_file = ["--out", tmp_path / "A.kit.yaml"] if words[0] == "invite" else []
    code, out, err = command(main, *words, *out_file, "--home", home.path)
    assert (code, out) == (2, "")
    assert err.startswith(f"climb-server: {home.ca_certificate} is missing or damaged: put it back from")
    assert err.count("\n") == 1


def test_a_start_without_a_key_ends_before_anything_runs(home: Home, command: Command) -> None:
    home.server_key.unlink()
    code, out, err = command(main, "start", "--home", home.path)
    assert (code, out) == (2, "")
    assert err == (
        f"climb-server: {home.server_certificate} or server.key is missing or damaged: "
        "climb-server renew makes both anew\n"
    )
