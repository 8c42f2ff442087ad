"""Whether this site's server answers, is the right one, and has about the same time."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from climb_model.clock import MOST_AHEAD_S, clock_offset
from climb_model.no_redirect import NoRedirect

TIMEOUT_S = 10.0
MOST_BEHIND_S = 300.0
"""Flower refuses a site whose clock is further behind than 305 s."""


@dataclass(frozen=True, kw_only=True)
class ServerCheck:
    """What one look at the server found."""

    answers: bool
    offset_s: float | None
    """This site's clock less the server's, in seconds; known to about 1 s."""

    problem: str
    """One line in words, with what to do; '' if all is well."""


def check_server(server: str, ca: Path, *, clock: Callable[[], float] = time.time) -> ServerCheck:
    """Ask `https://server/health`, trusting the site's own `ca.crt` alone; no other address.

    Args:
        server: `host:port`.
        clock: seconds of the epoch.
    """
    context = ssl.create_default_context(cafile=str(ca))
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), NoRedirect)
    before = clock()
    try:
        with opener.open(f"https://{server}/health", timeout=TIMEOUT_S) as answer:
            date = answer.headers.get("Date", "")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date", "")
        if error.code not in (502, 503, 504):
            line = f"{server} answers {error.code} to /health: is it the study's server? ask the coordinator"
            return ServerCheck(answers=False, offset_s=None, problem=line)
        line = f"{server} is there, but the coordinator's SuperLink does not answer yet ({error.code})"
        return ServerCheck(answers=False, offset_s=clock_offset(date, before, clock()), problem=line)
    except urllib.error.URLError as error:
        return ServerCheck(answers=False, offset_s=None, problem=_unreachable(server, error.reason))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return ServerCheck(answers=False, offset_s=None, problem=_unreachable(server, error))
    offset = clock_offset(date, before, clock())
    return ServerCheck(answers=True, offset_s=offset, problem="" if offset is None else clock_line(offset))


def clock_line(offset: float) -> str:
    """What is wrong with this site's clock; '' if nothing is.

    Args:
        offset: this site's clock less the server's, in seconds.
    """
    todo = "set it by a time server (NTP), such as with chrony or timedatectl set-ntp true"
    if offset > MOST_AHEAD_S:
        return (
            f"this machine's clock is {offset:.0f} s ahead of the server's; Flower refuses a site that is "
            f"more than {MOST_AHEAD_S:.0f} s ahead: {todo}"
        )
    if offset < -MOST_BEHIND_S:
        return (
            f"this machine's clock is {-offset:.0f} s behind the server's; Flower refuses a site that is "
            f"more than {MOST_BEHIND_S:.0f} s behind: {todo}"
        )
    return ""


def _unreachable(server: str, reason: object) -> str:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {server} is not to be trusted ({reason.verify_message}): this site trusts "
            "its ca.crt alone; ask the coordinator, or a proxy in between opens the connection"
        )
    text = (reason.strerror if isinstance(reason, OSError) else None) or str(reason)
    text = "".join(sign for sign in text if sign.isprintable())[:100]
    return f"{server} cannot be reached ({text}): a site needs outbound TCP to this host and port"
