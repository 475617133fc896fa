"""What is wrong with a `Game`, in one line that names the file, the line and the cure.

A server that is copied alone says such things in plainer words, or when a hook is called at last.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import itertools
import math
import os
import re
import sys
import textwrap
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import scalesocket
from scalesocket import (
    HERE,
    TOKEN,
    BackendError,
    Client,
    ConfigError,
    Game,
    GameBackend,
    Room,
    Server,
)

from .spelling import did_you_mean

# What other servers call a hook, where that is not like its name here.
ELSEWHERE = {
    "on_connect": ("on_join",),
    "on_open": ("on_join",),
    "on_disconnect": ("on_leave",),
    "on_close": ("on_leave",),
}
# What a client or a room is asked for that it has not, and where that is.
ATTRIBUTES: dict[type, dict[str, str]] = {
    Client: {
        "broadcast": "room.broadcast",
        "parameters": "client.request.parameters",
        "query": "client.request.parameters",
        "headers": "client.request.headers",
        "path": "client.request.path",
        "username": "client.name",
        "disconnect": "client.close",
        "kick": "client.close",
    },
    scalesocket.GameRoom: {
        "send": "room.broadcast",
        "send_json": "room.broadcast_json",
        "send_all": "room.broadcast",
        "name": "room.id",
        "players": "room.clients",
        "members": "room.clients",
        "call_after": "room.call_later",
    },
}
_OF_CLIENT = {"id", "name", "data", "send", "send_json", "close"}  # what an ID is asked for
SLOW_IMPORT = 3.0  # seconds until it is told that an import takes long
_RATE = "a number from 0 on"
_CHANGES = {"update", "setdefault", "pop", "clear", "append", "extend", "insert", "remove"}
_LIBRARY = os.path.join(os.path.dirname(os.__file__), "")
_PACKAGES = re.compile("(site|dist)-packages")  # dist: what Debian brings
_OURS = (str(HERE / "scalesocket.py"), os.path.join(HERE, "net", ""))
_CLIENTS = os.path.join(HERE, "client", "")  # a game may be a client of another server


# ==== What a game does in vain ===========================================================


class GameRoom(scalesocket.GameRoom):
    """A room that tells its game at once what it cannot call.

    It has the name of the class that a game knows, as Python's errors name it.
    """

    def call_later(
        self, seconds: float, function: Callable[[], None], *, repeat: bool = False
    ) -> Callable[[], None]:
        check_function("room.call_later", function)
        return super().call_later(seconds, function, repeat=repeat)

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        check_function("room.call_soon", function)
        super().call_soon(function, *arguments)


def check_function(call: str, function: object) -> None:
    """See that a game says what is to be called, as `self.step` and not `self.step()`."""
    if not callable(function):
        raise TypeError(f"{call} wants a function, not {function!r}")


class CheckedGame(GameBackend):
    """A game of which it is said if it asks for what cannot be."""

    room_type = GameRoom

    @staticmethod
    def explain(error: BackendError) -> str:
        """Return why it failed, and where."""
        return explain_failure(error.__cause__)

    def _begin(self) -> None:
        super()._begin()
        if not 0 <= (rate := self.game.tick_rate) < math.inf:
            self._room.log.warning("no ticks: tick_rate is %s, not %r", _RATE, rate)


def set_up(server: Server) -> None:
    """Have a server tell its game such things."""
    if server.config.game is not None:
        server.registry.make_backend = functools.partial(CheckedGame, server.config.game)


# ==== What an import has met =============================================================


def import_game(load: Callable[[], object], class_name: str, where: str) -> type[Game]:
    """Run an import, and return the module's class of that name.

    Raises:
        ConfigError: what went wrong and in which line, as it is the operator's to mend; or there is
            no such `Game`, or one whose hooks cannot be called.
    """
    try:
        module: Any = load_patiently(load, where)
    except (Exception, SystemExit) as error:
        text = explain_import(error, where.partition(":")[0])
        raise ConfigError(f"cannot import {where}: {text}") from None
    check_game(module, class_name)
    game: type[Game] = getattr(module, class_name)
    return game


def load_patiently(load: Callable[[], object], where: str) -> object:
    """Run an import; say in between if it takes long, and in which line it is."""
    told = threading.Timer(SLOW_IMPORT, tell_slow, (threading.get_ident(), where))
    told.daemon = True
    told.start()
    try:
        return load()
    finally:
        told.cancel()
        told.join()  # --workers forks


def tell_slow(thread: int, where: str) -> None:
    """Say that an import takes long; there is no log yet."""
    at = find_thread(thread)
    text = f"scalesocket: still importing {where}{f': {at}' if at else ''}"
    print(text, file=sys.stderr, flush=True)


def find_thread(thread: int) -> str:
    """Return in which line of the user's own code a thread is, if it is in any."""
    frame = sys._current_frames().get(thread)
    while frame is not None and not is_own(frame.f_code.co_filename):
        frame = frame.f_back
    return place(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""


def name_room(room: Room) -> str:
    """Return the name of a room that does not end, and where its game is: in a loop, perhaps."""
    at = find_thread(room.thread)
    return f"{room.name} (its game is at {at})" if at else room.name


def explain_import(error: BaseException, module_name: str) -> str:
    """Return why a module could not be imported, and where.

    Args:
        error: what came of it.
        module_name: the module that was asked for, which another one may have imported; or the
            file, whose name is said already.
    """
    if isinstance(error, SyntaxError):
        text = f": {error.text.strip()}" if error.text else ""
        at = place(error.filename or "", error.lineno, module_name)
        return f"{at}: {error.msg}{text}" if at else f"{error.msg}{text}"
    file, line = find_own_frame(error)
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if f"{module_name}.".startswith(f"{error.name}.") and not file:
            return explain_missing_module(module_name)
        what = f"there is no module {error.name!r}{explain_absence(error.name, file)}"
    else:
        what = traceback.format_exception_only(error)[-1].strip()
        if isinstance(error, ImportError):
            what = explain_missing_name(error, module_name)
    return f"{place(file, line, module_name)}: {what}" if file else what


def explain_missing_module(name: str) -> str:
    """Return what to say of `name:Class` if there is no such module."""
    if name.endswith(".py"):
        return f"a module is named without its .py: say {name.removesuffix('.py')}:CLASS"
    folder = Path(*name.split(".")[:-1])
    before = "".join(f"{part}." for part in folder.parts)
    names = [before + path.stem for path in sorted(folder.glob("*.py"))]
    return f"there is no module {name!r}{did_you_mean(name, names)}"


def explain_absence(name: str, file: str) -> str:
    """Return how to come by a module that a file wants to import."""
    import shlex

    from .programs import find_dependencies

    siblings = [path.stem for path in Path(file).parent.glob("*.py")] if file else []
    known = ["scalesocket", *sys.stdlib_module_names, *siblings]
    hint = did_you_mean(name.rpartition(".")[2], known)
    packages = find_dependencies(file)
    if packages:
        return f": pip install {shlex.join(packages)}"
    return hint or f" for {sys.executable}; is it installed?"


def explain_missing_name(error: ImportError, module_name: str) -> str:
    """Return what to say of `from module import name` if that does not have it, or is not there."""
    if "no known parent package" in str(error):  # as of `from .rules import`
        if module_name.endswith(".py"):
            return f"{error}; say it without the dot, or have an __init__.py in the folder"
        inside = f"{Path.cwd().name}.{module_name}"
        return f"{error}; it has one if you serve {inside}:CLASS in the folder above"
    wanted = re.match(r"cannot import name '(\w+)' from '(\S+)'", str(error))
    if wanted is None:
        return str(error)
    names = dir(sys.modules.get(wanted[2]))
    module = wanted[2].replace("__main__", "scalesocket")
    return f"{module} has no {wanted[1]}{did_you_mean(wanted[1], names)}"


def explain_failure(error: BaseException | None) -> str:
    """Return why a game has failed, and where in the user's own code; None: no game has."""
    if error is None:
        return ""
    file, line = find_own_frame(error)
    what = traceback.format_exception_only(error)[-1].strip()
    if hint := explain_attribute(error, what):
        what = what.partition(". Did you mean")[0] + hint  # Python knows names alone
    if file:
        return f": {place(file, line)}: {what}"
    # The server could not use what it had been given, which its innermost frame has.
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    given = frame.f_locals
    if frame.f_code is GameBackend._begin.__code__ and "rate" in given:
        # A property, or set by the game itself: it was not seen at the start.
        where = where_is(type(given["self"].game), None)
        return f": {where}: tick_rate is {_RATE}, not {given['rate']!r}"
    function = given.get("function") or getattr(given.get("event"), "function", None)
    function = getattr(function, "func", function)  # `room.call_soon` makes it a partial
    owner = given.get("self")
    if function is None and isinstance(owner, GameBackend):  # a hook that the object has itself
        own = [hook for name, hook in vars(owner.game).items() if name in frame.f_code.co_names]
        function = own[0] if len(own) == 1 else None
    where = place_of(function)
    return f": {where}: {what}" if where else f": {what}"


def explain_attribute(error: BaseException, what: str) -> str:
    """Return a hint at what was meant by an attribute that a game, a client or a room has not.

    Nothing of the user's own is called, which may fail: a room is waiting to be ended.

    Args:
        error: what a game has raised.
        what: its type and text.
    """
    if what == "TypeError: 'Client' object is not iterable":
        return "; exclude is a list: exclude=[client]"
    if type(error) is not AttributeError or not isinstance(error.name, str):
        return ""
    kind = type(error.obj)
    if issubclass(kind, Game) and error.name == "room":
        return "; keep it: def on_create(self, room): self.room = room"
    if kind is int and error.name in _OF_CLIENT:
        return "; it may be an ID: room.clients[ID] is a client, room.clients.values() are all"
    if issubclass(kind, Room):
        return "; this is the server's own: use the room of on_create(self, room)"
    for owner, words in ATTRIBUTES.items():
        if issubclass(kind, owner):
            meant = words.get(error.name)
            return f"; did you mean {meant}?" if meant else ""
    return ""


def find_own_frame(error: BaseException) -> tuple[str, int | None]:
    """Return file and line of the user's own code that an exception comes from, if any."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_own(frame.filename):
            return frame.filename, frame.lineno
    return "", None


def is_own(file: str) -> bool:
    """Whether code is the user's own: not the server's, Python's or a package's."""
    foreign = file.startswith(("<", _LIBRARY, _CLIENTS)) or _PACKAGES.search(file)
    return not foreign and not is_of_server(file)


def is_of_server(file: str) -> bool:
    """Whether code is the server's."""
    return file.startswith(_OURS)


def place(file: str, line: int | None, known: str = "") -> str:
    """Return a file, as short as it can be named from here, and a line of it.

    Args:
        file: empty: it is not known.
        line: of it, if there is one.
        known: a file that has been named already.
    """
    if line and file == known:
        return f"line {line}"
    inside = ""
    with contextlib.suppress(FileNotFoundError):  # the working directory has been deleted
        inside = os.path.join(os.getcwd(), "")
    return f"{file.removeprefix(inside)}, line {line}" if line else file.removeprefix(inside)


# ==== A class that is no game, or not the one that was meant =============================


def check_game(module: ModuleType, class_name: str) -> None:
    """See that a module's class of that name is a `Game` that can do what it says.

    Raises:
        ConfigError: it is not, or one of its hooks cannot be called.
    """
    found = getattr(module, class_name, None)
    file = place(getattr(module, "__file__", None) or module.__name__, None)
    if found is None:
        games = [name for name, value in vars(module).items() if is_game(value)]
        hint = did_you_mean(class_name, games) or (games and f"; it has {', '.join(games)}") or ""
        hint = explain_shadow(module) or hint
        raise ConfigError(f"{file} has no class {class_name}{hint}")
    if not is_game(found):
        what = "a class" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise ConfigError(
            f"{file}: {class_name} is {what}, but no subclass of scalesocket.Game: "
            f"class {class_name}(Game)"
        )
    with warnings.catch_warnings(action="ignore"):  # of its source: Python has said them
        check_hooks(found)


def explain_shadow(module: ModuleType) -> str:
    """Return what to say if a file here has the name of a module that was there before it."""
    name = module.__name__.replace("__main__", "scalesocket")
    own = Path(*name.split(".")).with_suffix(".py")
    if own.is_file() and own.resolve() != Path(module.__file__ or "").resolve():
        return f"; it is not {own} here, which must have a name that no other module has"
    return ""


def is_game(value: object) -> bool:
    """Whether something in a module is a game that can be served."""
    return isinstance(value, type) and issubclass(value, Game) and value is not Game


# ==== Hooks that would never be called, or not as they are ===============================


def check_hooks(game: type[Game]) -> None:
    """See that a game's hooks are spelt as they are called, and take what they are given.

    Raises:
        ConfigError: one of them does not.
    """
    own = [base for base in game.__mro__ if base not in Game.__mro__]
    used = {name for base in own for name in names_used(base)}
    check_settings(game)
    for base in own:
        for name, value in vars(base).items():
            if hasattr(Game, name):
                if name.startswith("on_"):
                    check_hook(game, base, name, value)
            elif not name.startswith("_") and name not in used:
                check_spelling(game, base, name, value)
    for base in own:
        check_body(game, base, used)
    check_ticks(game, used)
    if missing := ", ".join(sorted(getattr(game, "__abstractmethods__", ()))):
        where = where_is(game, None)
        raise ConfigError(f"{where}: {game.__name__} is abstract, as it has no {missing}")
    makers = game.__new__, game.__init__, type(game).__call__
    try:
        if makers != (object.__new__, object.__init__, type.__call__):  # which take none anyway
            inspect.signature(game).bind()
    except TypeError:
        raise ConfigError(
            f"{where_is(game, game.__init__)}: {game.__name__}() is called without arguments; "
            "the room comes with on_create(self, room)"
        ) from None


def check_settings(game: type[Game]) -> None:
    """See that what a game says of itself is of a kind that the server can use.

    Raises:
        ConfigError: it is not.
    """
    rate, names = game.tick_rate, game.subprotocols
    is_rate = isinstance(rate, int | float) and 0 <= rate < math.inf
    is_list = isinstance(names, Collection) and not isinstance(names, str)
    is_list = is_list and all(isinstance(name, str) for name in names)
    for name, is_right, what in (
        ("tick_rate", is_rate or isinstance(rate, property), _RATE),
        ("max_clients", is_count(game.max_clients), "a whole number from 0 on"),
        ("max_rate", is_count(game.max_rate), "a whole number from 0 on"),
        ("subprotocols", is_list, "a list of names"),
        ("subprotocols", is_list and all(map(TOKEN.fullmatch, names)), "of names without spaces"),
    ):
        if not is_right:
            owner = next(base for base in game.__mro__ if name in vars(base))
            value = getattr(game, name)
            raise ConfigError(f"{where_is(owner, None)}: {name} is {what}, not {value!r}")


def is_count(value: object) -> bool:
    """Whether a value says how many there may be, or 0 for any number."""
    return isinstance(value, int) and value >= 0


def check_ticks(game: type[Game], used: set[str]) -> None:
    """See that a game which wants ticks says how many, itself or in one of its functions.

    Raises:
        ConfigError: its `on_tick` would never be called.
    """
    own = [base for base in game.__mro__ if base is not Game]
    says = any("tick_rate" in vars(base) for base in own) or "tick_rate" in used
    if game.on_tick is not Game.on_tick and not says:
        raise ConfigError(
            f"{where_is(game, game.on_tick)}: nothing calls on_tick without a tick_rate, "
            "so many times a second"
        )


def check_body(game: type[Game], base: type, used: set[str]) -> None:
    """See that a class does nothing that comes to nothing without a word.

    Args:
        game: what is served.
        base: it, or a class that it is made of.
        used: names that it looks up.

    Raises:
        ConfigError: it does.
    """
    tree = parse_class(base)
    if tree is None:
        return
    parts = list(walk(tree))
    idle = functools.partial(find_idle_call, game)
    late = functools.partial(find_late_rate, find_early(game))
    answer = functools.partial(find_answer, used)
    for look in (idle, find_lost_metadata, answer, late):
        for line, what in filter(None, map(look, parts)):
            raise ConfigError(f"{place(inspect.getsourcefile(base) or '', line)}: {what}")


def parse_class(owner: type) -> ast.ClassDef | None:
    """Return the source of a class, with the lines of its file; None: there is none.

    `inspect.getsource` would take its end from tokens, which takes far longer than to parse all.
    """
    try:
        lines, before = inspect.findsource(owner)  # up to its first decorator
        waiting: list[ast.AST] = [ast.parse("".join(lines))]
    except (OSError, TypeError, ValueError, SyntaxError):
        return None
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef):
            if before + 1 == min([node.lineno, *(part.lineno for part in node.decorator_list)]):
                return node
        waiting += [part for part in ast.iter_child_nodes(node) if not isinstance(part, ast.expr)]
    return None


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a class or a function, but not those of classes inside it."""
    waiting = deque([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        inner = ast.iter_child_nodes(node)
        waiting += [part for part in inner if not isinstance(part, ast.ClassDef)]


def find_early(game: type[Game]) -> set[str]:
    """Return the names of the functions that a game may call before its ticks begin.

    Those of its modules are among them, as they may call its own.
    """
    waiting = ["__init__", "__post_init__", "on_create", "on_restore"]
    own = [base for base in game.__mro__ if base not in Game.__mro__]
    modules = [sys.modules[base.__module__] for base in own if base.__module__ in sys.modules]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            for owner in [*own, *modules]:
                value = vars(owner).get(name)
                if (code := code_of(value)) is not None:
                    waiting += names_in(code)
                elif isinstance(value, type) and value is not Game:
                    waiting += names_used(value)
    return found


def find_late_rate(early: set[str], node: ast.AST) -> tuple[int, str] | None:
    """Return line and fault of a function that changes `tick_rate` when nobody looks at it."""
    match node:
        case ast.FunctionDef(name=name, args=ast.arguments(args=[ast.arg(arg="self"), *_])):
            for part in walk(node) if name not in early else ():
                match part:
                    case ast.Attribute(ast.Name("self"), "tick_rate", ast.Store()):
                        what = "tick_rate is looked at when on_create has returned, and never again"
                        return part.lineno, what
    return None


def find_idle_call(game: type[Game], node: ast.AST) -> tuple[int, str] | None:
    """Return line and fault of a call that the room is to make, but that would do nothing."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return None
    name = node.func.attr
    wanted = node.args[{"call_soon": 0, "call_later": 1}.get(name, len(node.args)) :][:1]
    match wanted:
        case [ast.Attribute(ast.Name("self"), method)]:
            inner = inner_function(inspect.getattr_static(game, method, None))
            if inspect.iscoroutinefunction(inner):
                return node.lineno, f"room.{name} calls a plain `def`; {method} is `async def`"
            if inspect.isgeneratorfunction(inner):
                what = f"room.{name} calls {method}, which does nothing: it has a `yield`"
                return node.lineno, what
    return None


def find_lost_metadata(node: ast.AST) -> tuple[int, str] | None:
    """Return line and fault of a change to what `room.metadata` has returned, which is a copy.

    What is called `room` elsewhere may be one of the game's own: a room of a house.
    """
    if not isinstance(node, ast.FunctionDef):
        return None
    names = {"self.room.metadata", "room.metadata" if node.name == "on_create" else ""}
    for target in itertools.chain.from_iterable(map(list_changed, walk(node))):
        changed = target
        while isinstance(changed, ast.Subscript | ast.Attribute):
            changed = changed.value
            if ast.unparse(changed) in names:
                return target.lineno, "room.metadata is a copy: assign the whole of it"
    return None


def list_changed(node: ast.AST) -> list[ast.expr]:
    """Return what a statement assigns to, or the method by which it changes something."""
    match node:
        case ast.Assign(targets=targets):
            return targets
        case ast.AugAssign(target=target):
            return [target]
        case ast.Expr(ast.Call(ast.Attribute(attr=name) as method)) if name in _CHANGES:
            return [method]
    return []


def find_answer(used: set[str], node: ast.AST) -> tuple[int, str] | None:
    """Return line and fault of a hook that returns what it wants to say."""
    if not (isinstance(node, ast.FunctionDef) and node.name in {"on_join", "on_message"} - used):
        return None
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        part = waiting.pop()
        match part:
            case ast.Return(ast.Constant(str() | bytes()) | ast.JoinedStr() | ast.Dict()):
                what = f"nobody gets what {node.name} returns; say client.send or room.broadcast"
                return part.lineno, what
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() | ast.ClassDef():
                continue  # which returns it to the hook
        waiting += ast.iter_child_nodes(part)
    return None


def check_spelling(game: type[Game], base: type, name: str, value: object) -> None:
    """See that a name which nothing uses is not meant for one that the server uses.

    Raises:
        ConfigError: it is like one of them that the game has not.
    """
    from difflib import get_close_matches

    plain = re.sub(r"(?<=.)([A-Z])", r"_\1", name).lower()
    known = [word for word in vars(Game) if not word.startswith("_")]
    for meant in ELSEWHERE.get(plain) or get_close_matches(plain, known, 1, 0.85):
        if not any(meant in vars(other) for other in game.__mro__ if other is not Game):
            raise ConfigError(
                f"{where_is(base, value)}: nothing calls {name}; did you mean {meant}?"
            )


def check_hook(game: type[Game], base: type, name: str, value: object) -> None:
    """See that a hook is a plain function that takes what it is called with.

    Raises:
        ConfigError: it is not.
    """
    where = where_is(base, value)
    inner = inner_function(value)
    if not callable(getattr(game, name)):
        raise ConfigError(f"{where}: {name} is a hook, and no {type(value).__name__}")
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigError(
            f"{where}: {name} is `async def`, and hooks are plain `def`; what takes long goes "
            "on a thread, and comes back by room.call_soon"
        )
    if inspect.isgeneratorfunction(inner):
        raise ConfigError(f"{where}: {name} has a `yield`, and so does nothing when it is called")
    if not isinstance(inner, FunctionType) or isinstance(value, staticmethod):
        return
    if name == "on_auth" and not isinstance(value, classmethod):
        raise ConfigError(
            f"{where}: on_auth is asked before there is a game: @classmethod above it"
        )
    wanted = inspect.signature(inner_function(vars(Game)[name]))
    try:
        inspect.signature(inner).bind(*wanted.parameters)
    except TypeError:
        own, right = map(strip_types, (inspect.signature(inner), wanted))
        raise ConfigError(f"{where}: {name}{own} must be {name}{right}") from None
    if name == "on_auth" and value is inspect.getattr_static(game, name) and lets_nobody_in(inner):
        raise ConfigError(f"{where}: on_auth returns nothing, so that nobody could come in")


def lets_nobody_in(on_auth: FunctionType) -> bool:
    """Whether no line of an `on_auth` returns anything, and its last one does not raise."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(on_auth.__code__))).body[0]
    except (OSError, SyntaxError):  # there is no source
        return False
    return (
        isinstance(tree, ast.FunctionDef)  # and no lambda
        and not isinstance(tree.body[-1], ast.Raise)
        and not any(isinstance(node, ast.Return) and node.value for node in ast.walk(tree))
    )


def strip_types(signature: inspect.Signature) -> inspect.Signature:
    """Return what a function takes, without the types of that."""
    names = [it.replace(annotation=it.empty) for it in signature.parameters.values()]
    return inspect.Signature(names)


def names_used(owner: type) -> Iterator[str]:
    """Yield the names that the functions of a class look up, its own methods among them."""
    for code in filter(None, map(code_of, vars(owner).values())):
        yield from names_in(code)


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that a function, and those inside it, look up."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from names_in(inner)


def where_is(owner: type, value: object) -> str:
    """Return file and line of a function, or else of the class that it is in."""
    if where := place_of(value):
        return where
    try:
        return place(inspect.getfile(owner), inspect.findsource(owner)[1] + 1)
    except (OSError, TypeError):  # there is no source
        return owner.__qualname__


def place_of(value: object) -> str:
    """Return file and line of a function of the user's own, or nothing if it is none."""
    code = code_of(value)
    if code is None or not is_own(code.co_filename):  # a dataclass has some of Python's
        return ""
    return place(code.co_filename, code.co_firstlineno)


def code_of(value: object) -> CodeType | None:
    """Return the code of a function, or of the one in a method; None: it is neither."""
    code = getattr(inner_function(value), "__code__", None)
    return code if isinstance(code, CodeType) else None


def inner_function(value: Any) -> Any:
    """Return the function in a method, also of a class or a static one; or else the value."""
    return getattr(value, "__func__", value)
