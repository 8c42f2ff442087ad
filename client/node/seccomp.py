"""Which system calls the app's process may not make: a seccomp filter that it sets on itself, for good.

Of the standard library alone: it is loaded before the chosen code is on the path.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable

_NO_NEW_PRIVILEGES, _SET_FILTER, _FILTER = 38, 22, 2
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Of this machine: what the kernel calls it, and its column of the numbers below."""

_NEWEST = 469
"""What a kernel has beyond this number is not known here, and so not there."""

_OTHER_ABI = 0x40000000
"""Beginning of x32's numbers, which name the same calls again."""

Numbers = tuple[int | None, int | None]
_OF_SOCKETS: dict[str, Numbers] = {
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
}
_SOCKET: Numbers = (41, 198)
_SOCKETPAIR: Numbers = (53, 199)
NEVER: dict[str, Numbers] = {
    # connections and other work by a way around the rules of sockets
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "setsid": (112, 157),  # what leaves the process group would outlive it
    "setpgid": (109, 154),
    # the kernel
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "iopl": (172, None),
    "ioperm": (173, None),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "fanotify_init": (300, 262),
    # who may read a file, its owner and its times, which Landlock leaves alone
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
"""No training needs these; on x86-64 and on aarch64."""

CALLS: dict[str, Numbers] = NEVER | _OF_SOCKETS | {"socket": _SOCKET, "socketpair": _SOCKETPAIR}
"""All that the filter names."""

_UNIX, _IPV4, _IPV6, _NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM, _RAW, _SEQUENCED = 1, 2, 3, 5
_OF_CUDA = ((_UNIX, _STREAM, 0), (_UNIX, _SEQUENCED, 0))
"""Its driver makes such sockets when it starts; connected to nothing, they reach nobody."""

_OF_PROCESSES = (
    *((family, _STREAM, protocol) for family in (_IPV4, _IPV6) for protocol in (0, 6)),
    (_NETLINK, _RAW, 0),  # which interfaces there are
)
_OF_NCCL = ((_UNIX, _DATAGRAM, 0),)

_LOAD, _EQUAL, _ABOVE, _AND, _RETURN = 0x20, 0x15, 0x25, 0x54, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

Code = list[tuple[int, int, int, int]]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def is_there() -> bool:
    """Whether this machine takes such a filter."""
    if os.uname().machine not in ARCHITECTURES or struct.calcsize("P") != 8 or sys.byteorder != "little":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    nothing = ctypes.c_void_p(None)
    return library.prctl(_SET_FILTER, ctypes.c_ulong(_FILTER), nothing) != 0 and (
        ctypes.get_errno() == errno.EFAULT
    )


def restrict_calls(*, gpu: bool, connects: bool) -> bool:
    """From now on this process and all that it starts cannot make the calls above; they are refused.

    Without `connects` it cannot reach anybody by a socket, of any family; pairs of streams within the
    process stay.

    Args:
        gpu: lets the GPU's driver make the local sockets that it wants, which connect to nothing.
        connects: for processes of several devices: TCP; with `gpu` local sockets too.

    Returns:
        Whether this machine can.

    Raises:
        OSError: if it can and did not.
    """
    if not is_there():
        return False
    code = b"".join(struct.pack("=HBBI", *step) for step in _code(gpu=gpu, connects=connects))
    program = _Program(len(code) // 8, code)
    library = ctypes.CDLL(None, use_errno=True)
    for number, *arguments in (
        (_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3),
        (_SET_FILTER, ctypes.c_ulong(_FILTER), ctypes.byref(program)),
    ):
        if library.prctl(number, *arguments):
            raise OSError(ctypes.get_errno(), "the kernel refused the filter of system calls")
    return True


def _code(*, gpu: bool, connects: bool) -> Code:
    """The filter as a program of the kernel's packet filter: a verdict at the first rule that fits."""
    architecture, column = ARCHITECTURES[os.uname().machine]
    allowed = (*(_OF_CUDA * gpu), *(_OF_PROCESSES * connects), *(_OF_NCCL * (gpu and connects)))
    code: Code = [
        *[(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), _refuse()],
        (_LOAD, 0, 0, _NUMBER),
        *([(_ABOVE, 0, 1, _OTHER_ABI - 1), _refuse()] if column == 0 else []),
        *[(_ABOVE, 0, 1, _NEWEST), _refuse(errno.ENOSYS)],
    ]
    for numbers in NEVER.values():
        code += _rule(numbers[column], [_refuse()])
    code += _rule(_SOCKET[column], _sockets(allowed))
    code += _rule(_SOCKETPAIR[column], _sockets(_OF_CUDA))
    if not connects:
        left = {"bind", "listen"} if gpu else set[str]()
        for name, numbers in _OF_SOCKETS.items():
            # the driver looks for a service that shares GPUs, and goes on where there is none
            verdict = _refuse(errno.ENOENT if gpu and name == "connect" else errno.EPERM)
            code += [] if name in left else _rule(numbers[column], [verdict])
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _rule(number: int | None, then: Code) -> Code:
    """The verdict of a call; the next rule for another call."""
    return [] if number is None else [(_EQUAL, 0, len(then), number), *then]


def _sockets(allowed: Iterable[tuple[int, int, int]]) -> Code:
    """The verdict of `socket(family, type, protocol)`."""
    code: Code = []
    for family, kind, protocol in allowed:
        code += [
            *[(_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 0, 6, family)],
            *[(_LOAD, 0, 0, _ARGUMENTS + 8), (_AND, 0, 0, 0xF), (_EQUAL, 0, 3, kind)],
            *[(_LOAD, 0, 0, _ARGUMENTS + 16), (_EQUAL, 0, 1, protocol), (_RETURN, 0, 0, _ALLOW)],
        ]
    return [*code, _refuse()]


def _refuse(error: int = errno.EPERM) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _REFUSE | error)
