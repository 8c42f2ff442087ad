"""A request that goes to the address it names, or nowhere."""

from __future__ import annotations

import urllib.request
from http.client import HTTPMessage
from typing import Any


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes an answer that sends the asker elsewhere as what it is: an `HTTPError` of its code."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Ask nobody else."""
