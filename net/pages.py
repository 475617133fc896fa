"""The pages that come with the server: for who has none, and the lobby for who has some.

Without `--staticdir` the address of the server is a page on which one talks to whatever it runs.
With it, that folder goes first. The lobby is at `/lobby/`, with the title, the text and the picture
that a script gives in its `[tool.scalesocket]`. An app with one page for all paths (`--spa`) has it
there, too, as a room, or a part of the app, may have that name.
"""

from __future__ import annotations

import contextlib
import functools
import json
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from scalesocket import (
    HERE,
    Config,
    HandshakeError,
    Request,
    Response,
    Server,
    StaticFiles,
    json_response,
    load_feature,
)

if TYPE_CHECKING:
    from .files import WebFiles

PAGES = (HERE / "client" / "web").resolve()
ALWAYS = ("lobby", "shared", "talk")  # folders of it that are there beside a folder of one's own
_LINK = r'\b(href|src)="([^"#:]+)"'


def open_folder(root: Path, page: str = "") -> WebFiles:
    """Return the files below a folder; nobody needs files.py before the first request for one."""
    from .files import WebFiles

    return WebFiles(root, page)


def make_files(config: Config) -> StaticFiles | None:
    """Return the files that a server has, if it has any."""
    if (PAGES / "index.html").is_file():
        return Pages(config)
    return open_folder(config.staticdir, config.spa) if config.staticdir else None


class Pages(StaticFiles):
    """The operator's files, and the pages here where there are none of that name.

    So a page of one's own may import `/shared/connection.js` (client/README.md).
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config.staticdir or PAGES)
        self._config = config

    @functools.cached_property
    def _own(self) -> WebFiles:
        return open_folder(self._root, self._config.spa)

    @functools.cached_property
    def _bundled(self) -> WebFiles:
        return open_folder(PAGES)

    def respond(self, request: Request) -> Response:
        """Return the file, or the page, that a request asks for.

        Raises:
            HandshakeError: see `StaticFiles`.
        """
        if self._config.staticdir is None and request.path == "/":
            return self._show_talk()
        try:
            return self._own.respond(request)
        except HandshakeError as error:
            if error.status != 404:
                raise
            found = self._find_bundled(request)
            if found is None:
                raise
            return found

    def _find_bundled(self, request: Request) -> Response | None:
        path = request.path
        if path == "/lobby/":
            return self._show("", "../")
        if path == "/":
            return self._show_talk()
        if path == "/lobby/about.json":
            return json_response(json.dumps(self._describe(request)))
        picture = self._config.about.get("picture")
        if path == "/lobby/picture" and picture:
            file = Path(picture)
            return open_folder(file.parent).respond(request._replace(target=f"/{quote(file.name)}"))
        if path.split("/")[1] not in ALWAYS:
            return None
        return self._bundled.respond(request)

    def _show_talk(self) -> Response:
        return self._show("terminal" if self._config.pty else "talk", "")

    @staticmethod
    def _show(folder: str, up: str) -> Response:
        """Return a page that is in one folder as if it were in another.

        Args:
            folder: where it is, below the pages; its links are relative to that.
            up: the way to the pages from where it appears.
        """

        def move(link: re.Match[str]) -> str:
            slash = "/" if link[2].endswith("/") else ""
            return f'{link[1]}="{up}{posixpath.normpath(posixpath.join(folder, link[2]))}{slash}"'

        text = (PAGES / folder / "index.html").read_text(encoding="utf-8")
        fields = (("Cache-Control", "no-cache"),)
        return Response(200, re.sub(_LINK, move, text).encode(), fields, "text/html; charset=utf-8")

    def _describe(self, request: Request) -> dict[str, Any]:
        """Return what pages are to know, also without --api."""
        config = self._config
        addresses = load_feature("addresses", "the lobby").tell_addresses(config, request)
        about: dict[str, Any] = {**config.about, **addresses, "json": config.clientframe == "json"}
        about["api"] = config.api
        if config.resume:
            about["resume"] = config.resume
        if "picture" in about:
            about["picture"] = "lobby/picture"
        if config.staticdir is None:
            about["page"] = "talk/"
        elif config.staticdir.resolve() != PAGES:
            own = (config.staticdir / "index.html").is_file()
            about["page"] = "" if own else "talk/"
        return about


def set_up(server: Server) -> None:
    """Have a server show the pages."""
    server.site.files = make_files(server.config)
    server.poller.call_soon(load)


def load() -> None:
    """Load what the first request for a page would have to wait for.

    Where no file can be opened, it does wait.
    """
    with contextlib.suppress(OSError, ImportError):
        from . import files  # noqa: F401  # only loaded
