"""What HTTP can do for static files beyond sending them (`--staticdir`).

A browser asks again only for what has changed, asks for parts of a long file, and gets a file that
is stored packed, as in `app.js.gz`, as its content. The server uses this whenever it is there.
"""

from __future__ import annotations

import contextlib
import functools
import mimetypes
import os
import re
import urllib.parse
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from scalesocket.net.basepath import SEGMENT

from scalesocket import (
    RESERVED_ROOMS,
    HandshakeError,
    Headers,
    Request,
    Response,
    StaticFiles,
    format_date,
    parser_of,
    refuse_if,
)

if TYPE_CHECKING:
    from scalesocket import Config

parse_page = parser_of(
    rf"/?({SEGMENT}/)*{SEGMENT}", "page such as index.html", lambda s: s.removeprefix("/")
)
# fmt: off
OPTIONS = (
    ("--spa", "[=PAGE]", parse_page,
     "a page of DIR, index.html if bare, for paths at which there is no file"),
)
# fmt: on

# What browsers insist on, or Python's own table lacks in some version, whatever the system says.
# XML names its encoding itself, so it is no `text/`, whose charset would be ours.
CONTENT_TYPES = {
    ".avif": "image/avif",
    ".css": "text/css",
    ".data": "application/octet-stream",
    ".glb": "model/gltf-binary",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}
OCTETS = "application/octet-stream"
# A packed file whose coding a browser can undo, as in `app.js.gz`, is sent as its content; a tar
# archive never, since who asks for one wants the archive.
CONTENT_CODINGS = frozenset(("gzip", "br", "zstd"))
PACKED_TYPES = {
    "gzip": "application/gzip",
    "zstd": "application/zstd",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
}


def check_options(config: Config) -> None:
    """Refuse a page that is not there.

    Raises:
        ConfigError: it is not.
    """
    folder, page = config.staticdir, config.spa
    refuse_if(folder is None, "--spa needs --staticdir")
    there = folder is not None and (folder / page).is_file()
    refuse_if(not there, f"--spa: there is no page {page} in {folder}")


def parse_range(value: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the number of bytes that a Range header asks for.

    None if it is to be ignored: another unit, several ranges, malformed (RFC 9110 section 14.2).

    Raises:
        HandshakeError: 416, it lies outside of the file.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", value.strip())
    if match is None or match[0].endswith("=-"):
        return None
    first, last = match[1], match[2]
    if first and last and int(first) > int(last):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        fields = ("Content-Range", f"bytes */{size}")
        raise HandshakeError(416, f"the file has {size} bytes", fields)
    return start, stop - start


@functools.cache
def load_types() -> mimetypes.MimeTypes:
    """Return the table of content types and codings, the same on every machine."""
    table = mimetypes.MimeTypes()
    table.encodings_map |= {".br": "br", ".zst": "zstd"}
    for suffix, kind in CONTENT_TYPES.items():
        table.add_type(kind, suffix)
    return table


def guess_coded_type(name: str) -> tuple[str, str]:
    """Return the content type of a file by its name, and the content coding it is stored in."""
    kind, coding = load_types().guess_type(name.lower())
    kind = kind or mimetypes.guess_type(name)[0] or ""  # what the machine knows beyond that
    if coding and (coding not in CONTENT_CODINGS or kind in ("", "application/x-tar")):
        return PACKED_TYPES.get(coding, OCTETS), ""
    return spell_type(kind or OCTETS), coding or ""


def spell_type(kind: str) -> str:
    """Return a content type with its charset, if it is text."""
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def accepts_coding(headers: Headers, coding: str) -> bool:
    """Whether a client takes a content coding (RFC 9110 section 12.5.3); without a word, any."""
    if not headers.get_all("Accept-Encoding"):
        return True
    items = (item.partition(";") for item in headers.tokens("Accept-Encoding"))
    weights = {name.strip(): weight.replace(" ", "") for name, _, weight in items}
    weight = weights.get(coding, weights.get("*", "q=0"))
    return not re.fullmatch(r"q=0(\.0*)?", weight)


def split_tags(value: str) -> list[str]:
    """Return the entity tags of a header, or `*`; ours hold no comma."""
    return [tag.strip() for tag in value.split(",")]


def parse_date(value: str) -> float | None:
    """Return the point in Unix time that a header tells; None if it tells none.

    The form of C's `asctime` names no time zone, and means UTC (RFC 9110 section 5.6.7).
    """
    try:
        date = parsedate_to_datetime(value)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def wants_page(request: Request) -> bool:
    """Whether a person has gone to this address, which a page's own script may know."""
    first = urllib.parse.unquote(request.path.split("/")[1])
    reserved = first in RESERVED_ROOMS or first.startswith(".")
    kinds = (kind.partition(";")[0].strip() for kind in request.headers.tokens("Accept"))
    return "text/html" in kinds and not reserved


class WebFiles(StaticFiles):
    """The files below a folder, their parts, and whether they have changed.

    Args:
        root: the folder.
        page: what a browser gets in place of a page that is not there (--spa).
    """

    def __init__(self, root: Path, page: str = "") -> None:
        super().__init__(root)
        self._page = page

    def respond(self, request: Request) -> Response:
        """Return the file that a request asks for, or the one page.

        Raises:
            HandshakeError: see `StaticFiles`; or the file has no such part (416).
        """
        try:
            return super().respond(request)
        except HandshakeError as error:
            if error.status != 404 or not (self._page and wants_page(request)):
                raise
        response = super().respond(request._replace(target=f"/{self._page}"))
        return response._replace(headers=(*response.headers, ("Vary", "Accept")))

    def _respond_with(self, file: BinaryIO, name: str, request: Request) -> Response:
        """Return the response for an open file, which is closed unless it is to be sent."""
        with contextlib.ExitStack() as opened:
            response = self._choose_response(opened.enter_context(file), name, request)
            if response.file is not None:
                opened.pop_all()  # who sends it closes it
        return response

    def _choose_response(self, file: BinaryIO, name: str, request: Request) -> Response:
        """Return the response for an open file, so that all it says is of the same bytes."""
        wanted = request.headers
        facts = os.fstat(file.fileno())
        kind, coding = guess_coded_type(name)
        vary = (("Vary", "Accept-Encoding"),) if coding else ()
        if coding and not accepts_coding(wanted, coding):  # it gets the packed file as such
            kind, coding = PACKED_TYPES.get(coding, OCTETS), ""
        encoded = (("Content-Encoding", coding),) if coding else ()
        etag = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}{coding and "-" + coding}"'
        modified = format_date(facts.st_mtime)
        fresh = (("ETag", etag), ("Last-Modified", modified), ("Cache-Control", "no-cache"), *vary)
        if self._has_changed(wanted, etag, facts.st_mtime):
            raise HandshakeError(412, "the file is another one by now", *fresh)
        if self._is_unchanged(wanted, etag, facts.st_mtime):
            return Response(304, headers=fresh)
        fields = (*fresh, ("Accept-Ranges", "bytes"), *encoded)
        part = None
        if request.method == "GET" and wanted.get("If-Range") in ("", etag, modified):
            part = parse_range(wanted.get("Range"), facts.st_size)
        if part is None:
            return Response(200, b"", fields, kind, file, 0, facts.st_size)
        start, length = part
        span = f"bytes {start}-{start + length - 1}/{facts.st_size}"
        return Response(206, b"", (*fields, ("Content-Range", span)), kind, file, start, length)

    @staticmethod
    def _has_changed(wanted: Headers, etag: str, modified: float) -> bool:
        """Whether a client wants the rest of what the file was (RFC 9110 section 13.2.2)."""
        known = wanted.get("If-Match")
        if known:
            return not {etag, "*"} & set(split_tags(known))
        since = parse_date(wanted.get("If-Unmodified-Since"))
        return since is not None and int(modified) > since

    @staticmethod
    def _is_unchanged(wanted: Headers, etag: str, modified: float) -> bool:
        """Compare with what the client has (RFC 9110 section 13.2.2: the ETag goes first)."""
        known = wanted.get("If-None-Match")
        if known:
            tags = [tag.removeprefix("W/") for tag in split_tags(known)]
            return etag in tags or "*" in tags
        since = parse_date(wanted.get("If-Modified-Since"))
        return since is not None and int(modified) <= since
