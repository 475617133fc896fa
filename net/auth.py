"""Who may come in, and who it is: a command says so (`--auth`), or a game (`Game.on_auth`).

The command gets the client's request as CGI variables. Status 0 lets the client in. What it prints
names the user; what it writes to stderr goes into the log.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesocket import (
    FLAG,
    KIB,
    STOP_STEPS,
    TOKEN,
    UNIX_PEER,
    BackendError,
    Client,
    Config,
    HandshakeError,
    Poller,
    ShortageError,
    as_variable,
    asks_game,
    build_environment,
    check_nesting,
    clean_name,
    command_for,
    insist,
    is_program,
    log,
    refuse_if,
    start_thread,
)

from .linebuffer import find_command
from .per_address import network_of
from .spawn import TidyChild

if TYPE_CHECKING:
    from scalesocket import Endpoint, Game, HttpSession, Request, Server

AUTH_TIMEOUT = 5.0  # seconds that --auth may take, and that a client waits for its turn
MAX_AUTH = 16  # commands of --auth at the same time
MAX_AUTH_OF_ONE = 4  # commands of --auth at the same time for one address
AUTH_PENALTY = 1.0  # seconds that a turn of an address is lost after a no
MAX_IDENTITY = 4 * KIB  # bytes of what --auth prints that are read
MAX_CLAIMS = 32  # facts about a user


class AuthCommand:
    """Runs --auth for clients; a few at a time, and fewer for one address.

    Args:
        config: the command, and what it is told.
        timer: ends commands that take too long.
    """

    def __init__(self, config: Config, timer: Poller) -> None:
        self._config = config
        self._timer = timer
        self._turns = threading.Condition()  # guards the two below
        self._taken = 0
        self._taken_by: Counter[str] = Counter()  # by network
        self._lock = threading.Lock()  # guards the two below
        self._running: set[TidyChild] = set()
        self._stopped = False

    def ask(self, client: Client) -> bool:
        """Return whether a client may come in; this may take 2 * AUTH_TIMEOUT seconds.

        Raises:
            HandshakeError: 503, too many wait for an answer, the command cannot be started now, or
                has been ended with the server.
        """
        later = ("Retry-After", "1")
        network = network_of(client.address)
        if not self._take_turn(network):
            raise HandshakeError(503, "too many wait to be let in", later)
        let_in = False
        try:
            let_in = not self._stopped and self._run(client) == 0
            if self._stopped and not let_in:  # that says nothing of the client
                raise HandshakeError(503, "the server is ending", later)
            return let_in
        except BackendError as error:
            log.error("--auth: %s", error)
            return False
        except ShortageError as error:
            raise HandshakeError(503, str(error), later) from None
        finally:
            self._end_turn(network, let_in)

    def stop(self) -> None:
        """End the commands that run, and start no more."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.signal_group(STOP_STEPS[-1][0])
        with self._turns:
            self._turns.notify_all()  # nobody waits for a turn any more

    def _take_turn(self, network: str) -> bool:
        """Wait until one more command may run, also for this network; return whether it may."""

        def is_free() -> bool:
            of_one = self._taken_by[network] if network != UNIX_PEER[0] else 0
            return self._stopped or (self._taken < MAX_AUTH and of_one < MAX_AUTH_OF_ONE)

        with self._turns:
            if not self._turns.wait_for(is_free, AUTH_TIMEOUT):
                return False
            self._taken_by[network] += 1  # first, as there may be no memory for it
            self._taken += 1
            return True

    def _end_turn(self, network: str, let_in: bool) -> None:
        """Give a turn back; after a no only later, so that guessing takes its time."""
        with self._turns:
            self._taken -= 1
            self._turns.notify_all()
        if let_in:
            self._forgive(network)
        else:
            insist(self._timer.call_later, AUTH_PENALTY, lambda: self._forgive(network))

    def _forgive(self, network: str) -> None:
        with self._turns:
            self._taken_by[network] -= 1
            if not self._taken_by[network]:
                del self._taken_by[network]
            self._turns.notify_all()

    def _run(self, client: Client) -> int:
        """Run the command, and note the user that it names; return its exit status."""
        environment = build_environment(client, self._config.passenv)
        streams = (subprocess.DEVNULL, subprocess.PIPE, subprocess.PIPE)
        child = TidyChild(self._config.auth, environment, streams, grace=0.0)  # may take long
        with self._lock:
            self._running.add(child)
            if self._stopped:  # meanwhile
                child.signal_group(STOP_STEPS[-1][0])
        assert child.popen.stdout is not None and child.popen.stderr is not None
        printed = b""
        try:
            self._timer.call_later(AUTH_TIMEOUT, lambda: self._expire(child))
            logger = start_thread("auth", self._log, child, child.popen.stderr.fileno())
            for data in child.read(child.popen.stdout.fileno()):
                printed += data[: MAX_IDENTITY - len(printed)]
            logger.join()
            status = child.popen.wait()
        finally:
            with self._lock:
                self._running.discard(child)
            child.stop(lambda: None)  # and what it has left behind
            child.close()
        if status == 0 and printed:
            user, client.claims = read_identity(printed)
            client.user = user or client.user
        return status

    @staticmethod
    def _log(child: TidyChild, stderr: int) -> None:
        for data in child.read(stderr):
            for line in data.decode(errors="replace").splitlines():
                log.info("auth: %s", line)

    def _expire(self, child: TidyChild) -> None:
        with self._lock:
            if child in self._running:
                log.warning("--auth took over %g s and was stopped", AUTH_TIMEOUT)
                child.signal_group(STOP_STEPS[-1][0])


def ask_game(game: type[Game], client: Client) -> bool:
    """Ask a game's `on_auth` whether a client may come in; what it answers may name the user."""
    from .mistakes import explain_failure  # not above: only a game needs it

    function = game.on_auth  # by this name net/mistakes.py says where it is
    try:
        answer = function(client.request)
        if not isinstance(answer, bool | str | None):
            raise TypeError(f"on_auth returns True, False or text, not {answer!r}")
    except BaseException as error:
        log.error("the game failed in on_auth%s", explain_failure(error), exc_info=error)
        return False
    client.user = clean_name(answer) if isinstance(answer, str) else ""
    return answer is True or bool(client.user)


def authenticate(server: Server, client: Client) -> None:
    """Ask whether a client may come in; nothing has been made for it yet. May take long.

    Raises:
        HandshakeError: 401, the answer is no, or there is none; 503, too many wait for one.
    """
    if not all(ask(client) for ask in server.askers):
        scheme = ("WWW-Authenticate", 'Basic realm="rooms"')  # RFC 9110 section 11.6.1
        raise HandshakeError(401, "you may not come in", scheme)


def describe_user(client: Client) -> dict[str, str]:
    """Return the variables that tell a program who has opened its room (RFC 3875 section 4.1)."""
    variables = {}
    if client.user:
        variables["REMOTE_USER"] = as_variable(client.user.encode())
        scheme = client.request.headers.get("Authorization").partition(" ")[0]
        if TOKEN.fullmatch(scheme):
            variables["AUTH_TYPE"] = scheme
    for name, value in client.claims.items():
        variables[f"REMOTE_USER_{name.upper()}"] = as_variable(value.encode())
    return variables


def read_identity(printed: bytes) -> tuple[str, dict[str, str]]:
    """Return the name of the user, and other facts about it, from what the command has printed.

    That is the name in the first line, and then lines of `NAME=value`; or a JSON object. In both,
    `user` is the name. Anything else is ignored.
    """
    text = printed.decode(errors="replace").strip()
    if text.startswith("{"):
        try:
            check_nesting(text)
            found = json.loads(text)
        except (ValueError, RecursionError):
            return "", {}
    else:
        first, *rest = text.split("\n")  # what else breaks lines may be in somebody's name
        lines = [first if "=" in first else f"user={first}", *rest]
        found = dict(line.split("=", 1) for line in lines if "=" in line)
    claims = {}
    for name, value in list(found.items())[:MAX_CLAIMS]:
        if value is not None and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name.strip()):
            shown = value if isinstance(value, str) else json.dumps(value)
            claims[name.strip().lower()] = clean_name(shown)
    return claims.pop("user", ""), claims


def parse_auth(text: str) -> tuple[str, ...]:
    """Return a command and its arguments, split as a shell would."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    program = Path(words[0]) if words else Path()
    if words and not is_program(program):
        program = find_command(words[0]) or Path()
    if not is_program(program):
        raise argparse.ArgumentTypeError(f"{text!r} is no command")
    return (*command_for(program), *words[1:])


def check_options(config: Config) -> None:
    """Refuse to ask about pages where there is nobody to be asked.

    Raises:
        ConfigError: there is nobody.
    """
    asks = config.auth or asks_game(config.game)
    refuse_if(config.authall and not asks, "--authall needs --auth, or a game with on_auth")


# fmt: off
OPTIONS = (
    ("--auth", "CMD", parse_auth,
     "run CMD for each client, with its request as CGI variables; status 0 lets it in, and "
     "what it prints is the user"),
    ("--authall", "", FLAG, "ask --auth for all but /health: pages, --api, --metrics, --console"),
)
# fmt: on


def set_up(server: Server) -> None:
    """Have a server ask the command, also about what is for no room if that is wanted."""
    if server.config.auth:
        command = AuthCommand(server.config, server.poller)
        server.askers.append(command.ask)
        server.before_end.append(command.stop)
    if server.config.authall:
        server.check_all = check_all


def check_all(session: HttpSession, request: Request, peer: Endpoint) -> None:
    """Ask whether a request that is for no room may be answered (--authall); may wait.

    A node of --peers speaks for itself when it asks which rooms are here; see net/relay.py. With
    --cors a browser asks what it may send (OPTIONS) before anybody says who it is.

    Raises:
        HandshakeError: it may not.
    """
    server = session.server
    is_direct = peer == session.peer and peer[0] in server.proxies
    asks_as_node = server.registry.relays and request.target.startswith("/api/rooms/?local=")
    is_preflight = request.method == "OPTIONS" and server.config.cors
    if is_preflight or (is_direct and asks_as_node):
        return
    told = server.speaks_tls(session.peer, request.headers, session.proxied)
    secure = told or session.tls is not None
    nobody: Any = None  # it will have no connection
    local = session.local
    client = Client(0, "", request, nobody, peer=peer, local=local, secure=secure)
    authenticate(server, client)
