"""A port that is taken is told before anything is started, with who holds it."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from climb_model.ports import free_port
from server.deployment.home import Home, HomeSettings
from server.deployment.ports import PortError, check_ports
from server.deployment.start import start


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    settings = HomeSettings(
        host="localhost", port=free_port(), superlink_port=free_port(), listen="127.0.0.1"
    )
    return Home.create(tmp_path_factory.mktemp("ports") / "home", settings)


@pytest.mark.parametrize("key", ["port", "superlink_port"])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_told_with_its_setting_and_its_holder(address: str, key: str, home: Home) -> None:
    port = getattr(home.settings(), key)
    lines: list[str] = []
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((address, port))
        holder.listen()
        with pytest.raises(PortError) as told:
            start(home, lines.append, threading.Event())
    line = str(told.value)
    assert line.startswith(f"port {port} of 127.0.0.1 cannot be listened on (process {os.getpid()}: ")
    assert line.endswith(f"end that, or set another {key} of {home.settings_file}")
    assert "\n" not in line
    assert lines == []
    assert not (home.logs / "superlink.log").exists()
    check_ports(home)


def test_an_address_that_is_not_this_machine_s_is_told(tmp_path: Path) -> None:
    settings = HomeSettings(host="x", port=free_port(), superlink_port=free_port(), listen="203.0.113.7")
    home = Home.create(tmp_path / "home", settings)
    with pytest.raises(PortError, match=r"of 203\.0\.113\.7 cannot be listened on \(Cannot assign requested"):
        check_ports(home)


def test_a_connection_that_has_just_ended_does_not_take_a_port(home: Home) -> None:
    """As after a server that was stopped with sites connected: its side of each waits for a minute."""
    port = home.settings().port
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with socket.create_connection(("127.0.0.1", port)) as site:
            served, _ = listener.accept()
            served.close()
            assert site.recv(1) == b""
    check_ports(home)
