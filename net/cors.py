"""Cross-origin resource sharing (`--cors`): which pages from elsewhere may read what is served.

A browser lets a page send requests anywhere, but shows it the answers of its own origin only. An
answer that names the page's origin is an exception from that (the Fetch standard, section 3.3). For
requests that no form could send the browser asks first: an OPTIONS request, the preflight.

WebSockets know nothing of this; for them there is `--origin`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from scalesocket import HttpSite, Request, Response, Server

from .origins import is_listed, parse_origins

# fmt: off
OPTIONS = (
    ("--cors", "LIST", parse_origins,
     "let pages from these origins read files and --api, as in --origin; any: all pages"),
)
# fmt: on
METHODS = "GET, HEAD, OPTIONS"
MAX_AGE = 600  # seconds that a browser need not ask again
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~ ,-]+")  # of header fields


class Cors:
    """Names the page's origin in answers, if it may read them.

    Args:
        allowed: origins as in `--origin`, or `any`.
        site: what answers; it may have a console.
    """

    def __init__(self, allowed: Sequence[str], site: HttpSite) -> None:
        self._site = site
        self._allowed = allowed
        self._any = "any" in allowed

    def preflight(self, request: Request) -> Response:
        """Answer an OPTIONS request."""
        fields = [
            ("Allow", METHODS),
            ("Access-Control-Allow-Methods", METHODS),
            ("Access-Control-Max-Age", str(MAX_AGE)),
        ]
        wanted = request.headers.get("Access-Control-Request-Headers")
        if _NAMES.fullmatch(wanted):
            fields.append(("Access-Control-Allow-Headers", wanted))
            fields.append(("Vary", "Access-Control-Request-Headers"))
        return Response(204, headers=tuple(fields))

    def mark(self, request: Request, response: Response) -> Response:
        """Return the response as the page that has asked may read it, if it may.

        The console is for nobody's pages but its own. OPTIONS, which nobody else knows, gets its
        answer here: the response is a 405, if whoever asks may have one at all.
        """
        if response.status == 405 and request.method == "OPTIONS" and is_preflighted(request):
            response = self.preflight(request)
        if response.status == 405:  # nobody but us knows that OPTIONS is answered
            headers = ((k, f"{v}, OPTIONS" if k == "Allow" else v) for k, v in response.headers)
            response = response._replace(headers=tuple(headers))
        console = self._site.console
        if console is not None and console.covers(request.path):
            return response
        if self._any:
            fields = [("Access-Control-Allow-Origin", "*")]
        else:
            fields = [("Vary", "Origin")]  # or a cache would give one page what another may read
            origin = request.headers.get("Origin")
            if is_listed(origin.lower(), self._allowed):
                fields.append(("Access-Control-Allow-Origin", origin))
                if origin != "null":  # which is anybody in a sandbox: it gets nobody's cookies
                    fields.append(("Access-Control-Allow-Credentials", "true"))
        return response._replace(headers=(*response.headers, *fields))


def is_preflighted(request: Request) -> bool:
    """Whether a request is for what pages from elsewhere may read: no WebSocket, nor `/health`."""
    return not request.is_upgrade and request.path.rstrip("/") != "/health"


def set_up(server: Server) -> None:
    """Have a server's answers name who may read them."""
    server.mark = Cors(server.config.cors, server.site).mark
