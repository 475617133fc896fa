"""TLS (--sslcert): the certificates, and what encrypts a connection.

A connection is served through three things, each of which knows only the one below it:

    HttpSession, Connection     HTTP and WebSockets, in plain bytes
    TlsTransport                bytes in, bytes out: it encrypts and decrypts in memory
    socket                      is read and written by the two above, without waiting
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesocket import (
    HEAD_TIMEOUT,
    RECEIVE_SIZE,
    UNIX_PEER,
    ConfigError,
    Connection,
    HandshakeError,
    Want,
    error_response,
    log,
    parse_request,
    parser_of,
    refuse_if,
)

from .origins import split_origin

if TYPE_CHECKING:  # imported only where it is used: --pcap without TLS does without it
    import ssl

    from scalesocket import Config, HttpSession, Life, Server

parse_path = parser_of(r"(?s).+", "path", Path)  # an empty one would be this folder
OPTIONS = (
    ("--sslcert", "FILE", parse_path, "speak TLS, with this certificate chain in PEM form"),
    ("--sslkey", "FILE", parse_path, "its private key, unless the same file holds it"),
    ("--sslca", "FILE", parse_path, "let in only clients with a certificate of this authority"),
)

RECORD_TYPES = range(20, 24)  # RFC 8446 section 5.1
MAX_RECORD = (1 << 14) + 2048  # bytes of an encrypted one (RFC 5246 section 6.2.3)

FAULTS = {  # what OpenSSL says of files, by the name of its reason
    None: "a certificate and its private key are wanted, both in PEM form",
    "KEY_VALUES_MISMATCH": "the private key is that of another certificate",
    "NO_CERTIFICATE_OR_CRL_FOUND": "the authority's file has no certificate in PEM form",
}


def check_options(config: Config) -> None:
    """Refuse a key or an authority without a certificate.

    Raises:
        ConfigError: there is none.
    """
    refuse_if(not config.sslcert, "--sslkey and --sslca need --sslcert")


def load_certificates(config: Config) -> ssl.SSLContext:
    """Return what TLS needs to know: --sslcert, its key, and an authority of clients, if any.

    Raises:
        ConfigError: the files cannot be used.
    """
    import ssl

    cert, key, authority = config.sslcert, config.sslkey, config.sslca
    assert cert is not None

    def refuse_password() -> str:  # nobody is there to type it
        raise ConfigError(f"the private key in {key or cert} is encrypted")

    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    except OSError as error:
        raise ConfigError(f"cannot use SSLKEYLOGFILE: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, refuse_password)
        if authority is not None:
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        files = ", ".join(map(str, filter(None, (cert, key, authority))))
        words = FAULTS.get(error.reason) if isinstance(error, ssl.SSLError) else None
        raise ConfigError(f"cannot use {files}: {words or error.strerror or error}") from None
    return context


def make_reloader(server: Server) -> Callable[[bool], bool]:
    """Return what SIGHUP calls: it has a server read its certificates again.

    It returns False, and does nothing, if the terminal that there was has gone, which SIGHUP means,
    too; with an argument of True it does not look for that.
    """
    had_terminal = has_terminal()

    def reload(anyhow: bool) -> bool:
        if not anyhow and has_terminal() != had_terminal:
            return False
        try:
            context = load_certificates(server.config)
            if server.taps is not None:
                server.taps.watch(context)
        except (ConfigError, OSError) as error:
            log.error("the old certificates stay: %s", error)
            return True
        server.tls_context = context
        log.info("certificates read again")
        return True

    return reload


def has_terminal() -> bool:
    """Whether this process has a terminal that controls it; a hangup takes it away."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


class PlainHttpError(OSError):
    """A peer speaks plain HTTP where TLS is spoken; `data` is what it has sent so far."""

    def __init__(self, data: bytes) -> None:
        super().__init__("plain HTTP at a port that speaks TLS")
        self.data = data


class TlsTransport:
    """TLS over memory: it encrypts and decrypts, and leaves the network to its caller.

    Python's `ssl` must not be used by two threads at once on one connection. Until the opening
    handshake is over the reader has it for itself; from then on the connection's lock guards it.

    Args:
        context: with the server's certificate.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        import ssl

        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._want_read = ssl.SSLWantReadError
        self._error = ssl.SSLError
        self.ended = False  # by a close notice, or because the peer broke it

    def advance_handshake(self, data: bytes) -> tuple[bool, bytes]:
        """Take what the peer sent; return whether the handshake is over, and what to send.

        Raises:
            ssl.SSLError: the peer cannot be agreed with.
        """
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except self._want_read:
            return False, self._outgoing.read()
        return True, self._outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        """Return what is to be sent for data; it must be sent, and in this order."""
        self._tls.write(data)
        return self._outgoing.read()

    def decrypt(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what received bytes hold, and what is to be sent because of them.

        If TLS ends behind that, `ended` is set.

        Raises:
            EOFError: it has ended, and they hold nothing.
        """
        self._incoming.write(data)
        pieces = []
        try:
            while piece := self._tls.read(RECEIVE_SIZE):
                pieces.append(piece)
            self.ended = True
        except self._want_read:
            pass
        except self._error:
            self.ended = True
        if self.ended and not pieces:
            raise EOFError("the peer has ended TLS")
        return b"".join(pieces), self._outgoing.read()

    def take_output(self) -> bytes:
        """Return what is to be sent after an error: an alert that says which."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """Return the notice that nothing more comes from us (RFC 8446 section 6.1)."""
        with contextlib.suppress(self._error):
            self._tls.unwrap()
        return self._outgoing.read()

    def through(self, connect: Callable[..., Connection]) -> Callable[..., Connection]:
        """Return what makes connections that it encrypts; see `Server.connect`."""
        return functools.partial(connect, kind=TlsConnection, tls=self)


class TlsSocket:
    """A socket that speaks TLS, as far as `HttpSession` needs it; for one thread at a time.

    Args:
        sock: connected.
        tls: after its handshake.
    """

    def __init__(self, sock: socket.socket, tls: TlsTransport) -> None:
        self._socket = sock
        self._tls = tls
        self.settimeout = sock.settimeout

    def recv(self, size: int, flags: int = -1) -> bytes:
        """Return bytes once some have come; none at the end.

        Args:
            size: bytes to read at once, at the most.
            flags: of the socket's `recv`, which is then called once; -1: wait for more.

        Raises:
            TimeoutError: they take longer, all together, than `settimeout` allows.
            BlockingIOError: with flags, what has come is a part of a record.
            OSError: the peer makes us answer, and does not read.
        """
        deadline = time.monotonic() + (self._socket.gettimeout() or HEAD_TIMEOUT)
        waits = flags < 0
        while not self._tls.ended:
            data = self._receive(size, deadline) if waits else self._socket.recv(size, flags)
            if not data:
                break
            if plain := self.decrypt(data, max(0, flags)):
                return plain
            if not waits and not self._tls.ended:
                raise BlockingIOError("the rest of a record is yet to come")
        return b""

    def _receive(self, size: int, deadline: float) -> bytes:
        patience = deadline - time.monotonic()
        if patience <= 0:
            raise TimeoutError("the peer took too long")
        self._socket.settimeout(patience)
        return self._socket.recv(size)

    def decrypt(self, data: bytes, flags: int = 0) -> bytes:
        """Return what received bytes hold; see `recv`."""
        try:
            plain, reply = self._tls.decrypt(data)
        except EOFError:
            return b""
        try:
            sent = self._socket.send(reply, flags) if reply else 0
        except BlockingIOError:
            sent = 0
        if sent < len(reply):
            raise ConnectionAbortedError("the peer makes us answer, and does not read")
        return plain

    def sendall(self, data: bytes) -> None:
        """Send all of the data."""
        self._socket.sendall(self._tls.encrypt(data))

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a part of a file; return how much of it there was."""
        file.seek(offset)
        sent, left = 0, count or 0
        while left > 0 and (data := file.read(min(left, RECEIVE_SIZE))):
            self.sendall(data)
            sent += len(data)
            left -= len(data)
        return sent

    def shutdown(self, how: int) -> None:
        """Say that nothing more comes from us."""
        self._socket.sendall(self._tls.close())
        self._socket.shutdown(how)

    def close(self) -> None:
        """Give the socket back; the peer is told, or it would take our end for a cut."""
        with contextlib.suppress(OSError):  # it has gone, or nobody has read what was sent
            self._socket.setblocking(False)
            self._socket.send(self._tls.close())
        self._socket.close()


class TlsConnection(Connection):
    """A connection whose bytes are encrypted.

    Args:
        tls: after its opening handshake; the lock guards it from now on.
    """

    IS_DIRECT = False

    def __init__(self, *args: Any, tls: TlsTransport, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tls = tls

    @property
    def has_more(self) -> bool:
        """Whether `receive` has something to give though no more bytes come."""
        return super().has_more or self._tls.ended

    def _take_bytes(self) -> bytes:
        if self._tls.ended:
            return b""
        data = super()._take_bytes()
        if not data or self._leaving:
            return data
        self.silent_since = time.monotonic()
        with self.lock:
            try:
                plain, reply = self._tls.decrypt(data)
            except EOFError:
                plain, reply = b"", self._tls.take_output()
            if reply and self.is_full:  # it makes us answer, and does not read
                self._die()
            elif reply and not self._dead:
                super().transmit(reply)
        if not (plain or self._tls.ended):
            raise BlockingIOError  # the rest of a record is yet to come
        return plain

    # -- under the lock --

    def transmit(self, data: bytes) -> None:
        """Send data encrypted; one whose TLS has failed is dead.

        Before `open` it waits as it is: what is encrypted must be sent, and who is refused is sent
        something else.
        """
        try:
            data = self._tls.encrypt(data) if self._is_open else data
        except OSError:  # ssl.SSLError is one
            self._die()
        else:
            super().transmit(data)

    def _discard(self) -> None:
        """Drop nothing that is encrypted: a record that is missing breaks TLS."""

    def _end_sending(self) -> None:
        self._write((self._tls.close(),))
        super()._end_sending()


def find_end(data: bytes) -> int:
    """Return where the last whole record of these ends; all that is no TLS counts as whole.

    A record has its type, a version and its length before it (RFC 8446 section 5.1).
    """
    at = 0
    while len(data) > at:
        length = int.from_bytes(data[at + 3 : at + 5])
        if data[at] not in RECORD_TYPES or length > MAX_RECORD:
            return len(data)
        if len(data) < at + 5 + length:
            break
        at += 5 + length
    return at


def shake_hands(session: HttpSession, tls: TlsTransport) -> Life:
    """Agree with the peer, in HEAD_TIMEOUT seconds; see `TlsSocket`.

    What has to be worked out is for a helper, and that is so only once a record is whole: a peer
    that takes its time costs no thread.

    Raises:
        OSError: no agreement with the peer (`ssl.SSLError` is one), or not in time.
        PlainHttpError: it speaks HTTP, and no TLS.
    """
    session.deadline = time.monotonic() + HEAD_TIMEOUT
    data, session.rest = session.rest, b""
    done, begin = False, b""
    while True:
        if end := find_end(data):
            yield Want.HELPER
            whole, data = data[:end], data[end:]
            begin = begin if len(begin) > 8 else begin + whole
            session.sock.settimeout(HEAD_TIMEOUT)
            try:
                done, reply = tls.advance_handshake(whole)
            except OSError:
                if re.match(rb"[A-Z]{3,7} ?/?", begin):  # 5 bytes of it tell OpenSSL
                    raise PlainHttpError(begin) from None
                send_alert(session.sock, tls)
                raise
            session.sock.sendall(reply)
        if done:
            break
        piece = yield Want.BYTES
        if not piece:
            raise ConnectionResetError("the peer left during the TLS handshake")
        data += piece
    session.layer = TlsSocket(session.sock, tls)
    session.rest = session.layer.decrypt(data)  # what came with the end of the handshake


def send_alert(sock: socket.socket, tls: TlsTransport) -> None:
    """Tell the peer why there is no agreement, and let it read that."""
    with contextlib.suppress(OSError):
        sock.sendall(tls.take_output())
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(1.0)
        sock.recv(RECEIVE_SIZE)


def begin(session: HttpSession) -> Generator[Want, Any, bool]:
    """Shake hands for TLS, if that is spoken here; return False if the peer speaks none.

    Who listens in on connections gets to know of this one, also if it is plain.
    """
    server = session.server
    context = server.tls_context if session.address != UNIX_PEER else None
    if server.taps is not None:
        session.tls = server.taps.begin(session.sock, session.peer, context, early=session.rest)
    elif context is not None:
        session.tls = TlsTransport(context)
    if session.tls is None:
        return True
    if not session.rest:
        session.rest = yield Want.BYTES
    if not session.rest:
        return False
    try:
        yield from shake_hands(session, session.tls)
    except PlainHttpError as error:
        session.rest = error.data
        told = f"plain HTTP from {session.peer[0]}: this port speaks TLS (--sslcert)"
        server.warn_once(told)
        yield from point_to_tls(session)
        return False
    return True


def point_to_tls(session: HttpSession) -> Life:
    """Tell a client that speaks plain HTTP where to go: a browser shows no alert of TLS."""
    where = "https:// and wss://"
    with contextlib.suppress(HandshakeError):
        if (yield from session.read_head(1.0)):
            session.request = request = parse_request(session.head)
            host = request.headers.get("Host")
            scheme = "wss" if request.is_upgrade else "https"
            if split_origin(host)[1]:
                where = f"{scheme}://{host}{request.target}"
    refusal = HandshakeError(400, f"this port speaks TLS: use {where}")
    yield Want.HELPER  # who has taken its time was read without one
    session.send(error_response(refusal), keep_alive=False)


def set_up(server: Server) -> None:
    """Have a server speak TLS."""
    server.tls_context = load_certificates(server.config)
    server.reload_certificates = make_reloader(server)
