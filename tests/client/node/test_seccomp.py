"""The filter of system calls: what a process that has it can make no more, and what training still can."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.node import seccomp

pytestmark = pytest.mark.skipif(not seccomp.is_there(), reason="this machine takes no filter of system calls")

TRY = """
import ctypes, importlib.util, json, multiprocessing, os, socket, subprocess, sys
found = importlib.util.spec_from_file_location("seccomp", sys.argv[1])
seccomp = importlib.util.module_from_spec(found)
found.loader.exec_module(seccomp)
given = json.loads(sys.argv[2])
kept = given["file"]
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "failed")

def tried(work):
    try:
        work()
    except OSError as error:
        return error.errno
    return 0

def datagram(family, where):
    with socket.socket(family, socket.SOCK_DGRAM) as sent:
        sent.sendto(b"report", where)

def connected(kind, where, family=socket.AF_UNIX):
    with socket.socket(family, kind) as tried:
        tried.connect(where)

def pair(kind):
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    one.sendall(b"x")
    assert other.recv(1) == b"x"

def listened():
    with socket.socket(socket.AF_UNIX) as waits:
        waits.bind("\\0cuda-like")
        waits.listen()
        waits.setblocking(False)
        waits.accept()

assert seccomp.restrict_calls(gpu=given["gpu"], connects=given["connects"])
print(json.dumps({
    "udp": tried(lambda: datagram(socket.AF_INET, ("127.0.0.1", given["udp"]))),
    "udp6": tried(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
    "tcp": tried(lambda: connected(socket.SOCK_STREAM, ("127.0.0.1", given["tcp"]), socket.AF_INET)),
    "local": tried(lambda: connected(socket.SOCK_STREAM, given["local"])),
    "local_datagram": tried(lambda: datagram(socket.AF_UNIX, given["local_datagram"])),
    "raw": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "packet": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)),
    "vsock": tried(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)),
    "netlink": tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    "listens": tried(listened),
    "pair": tried(lambda: pair(socket.SOCK_STREAM)),
    "pair_datagram": tried(lambda: pair(socket.SOCK_DGRAM)),
    "pipe": tried(lambda: multiprocessing.Pipe()),
    "io_uring": tried(lambda: call(425, 1, None)),
    "chmod": tried(lambda: os.chmod(kept, 0o777)),
    "fchmod": tried(lambda: os.fchmod(os.open(kept, os.O_RDONLY), 0o777)),
    "chown": tried(lambda: os.chown(kept, 1, 1)),
    "times": tried(lambda: os.utime(kept, (1, 1))),
    "attribute": tried(lambda: os.setxattr(kept, "user.x", b"x")),
    "setsid": tried(os.setsid),
    "setpgid": tried(lambda: os.setpgid(0, 0)),
    "session": tried(lambda: subprocess.run(["true"], start_new_session=True)),
    "chroot": tried(lambda: os.chroot("/")),
    "newer": tried(lambda: call(470)),
    "i_may": tried(lambda: subprocess.run(["true"], check=True)),
    "write": tried(lambda: open(kept, "a").close()),
    "ptrace": tried(lambda: call(seccomp.NEVER["ptrace"][seccomp.ARCHITECTURES[os.uname().machine][1]])),
}))
"""
REFUSED, ALLOWED, EMPTY = errno.EPERM, 0, errno.EAGAIN
ALWAYS = {
    **dict.fromkeys(("udp", "udp6", "raw", "packet", "vsock", "pair_datagram", "io_uring"), REFUSED),
    **dict.fromkeys(("chmod", "fchmod", "chown", "times", "attribute", "chroot", "ptrace"), REFUSED),
    **dict.fromkeys(("setsid", "setpgid", "session", "listens"), REFUSED),
    **dict.fromkeys(("pair", "pipe", "i_may", "write"), ALLOWED),
    "newer": errno.ENOSYS,
}


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Somebody for each kind of socket, and where."""
    local, datagrams = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with local, datagrams, udp, socket.create_server(("127.0.0.1", 0)) as tcp:
        for bound, name in ((local, "local"), (datagrams, "datagrams")):
            bound.bind(str(tmp_path / name))
        local.listen()
        udp.bind(("127.0.0.1", 0))
        for one in (local, datagrams, udp, tcp):
            one.setblocking(False)
        yield {
            "sockets": {"local": local, "local_datagram": datagrams, "udp": udp, "tcp": tcp},
            "udp": udp.getsockname()[1],
            "tcp": tcp.getsockname()[1],
            "local": str(tmp_path / "local"),
            "local_datagram": str(tmp_path / "datagrams"),
        }


@pytest.mark.parametrize(
    ("gpu", "connects", "otherwise"),
    [
        (False, False, {}),
        (True, False, {"local": errno.ENOENT}),
        (False, True, {"tcp": ALLOWED, "netlink": ALLOWED}),
        (
            True,
            True,
            dict.fromkeys(("tcp", "netlink", "local", "local_datagram"), ALLOWED) | {"listens": EMPTY},
        ),
    ],
    ids=["cpu", "gpu", "cpus", "gpus"],
)
def test_what_a_process_can_no_more(
    gpu: bool, connects: bool, otherwise: dict[str, int], listeners: dict[str, Any], tmp_path: Path
) -> None:
    kept = tmp_path / "policy.yaml"
    kept.write_text("text")
    kept.chmod(0o600)
    sockets = listeners.pop("sockets")
    given = json.dumps({**listeners, "gpu": gpu, "connects": connects, "file": str(kept)})
    command = [sys.executable, "-I", "-c", TRY, str(seccomp.__file__), given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = ALWAYS | dict.fromkeys(("tcp", "local", "local_datagram", "netlink"), REFUSED) | otherwise
    assert found == expected
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o600, os.getuid())
    for name, bound in sockets.items():
        came = True
        try:
            bound.recv(10) if name in ("udp", "local_datagram") else bound.accept()[0].close()
        except BlockingIOError:
            came = False
        assert came is (found[name] == ALLOWED), name


def test_the_numbers_are_the_kernels() -> None:
    """Against libseccomp's tables, for both architectures; what it does not know yet is left out."""
    name = ctypes.util.find_library("seccomp")
    if name is None:
        pytest.skip("there is no libseccomp on this machine")
    resolve = ctypes.CDLL(name).seccomp_syscall_resolve_name_arch
    resolve.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    compared = 0
    for call, numbers in seccomp.CALLS.items():
        for architecture, column in seccomp.ARCHITECTURES.values():
            known = resolve(architecture, call.encode())
            if known == -1:
                continue
            assert numbers[column] == (known if known >= 0 else None), call
            compared += 1
    assert compared > 2 * 60
