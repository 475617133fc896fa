"""Rooms and clients without a server, a socket or a thread, for what a test calls itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import strategies as st
from scalesocket.net.rooms import LateRoom

from scalesocket import Client, Config, Game, GameRoom, Members, write_json


def make_room(backend: Any) -> LateRoom:
    """Return a room that nobody is in, and that is listed nowhere."""
    registry: Any = SimpleNamespace(
        make_backend=lambda: backend, make_members=Members, config=Config(command=("cat",))
    )
    opener: Any = SimpleNamespace(room_name="room")
    return LateRoom(registry, opener)


class FakeClient:
    """Keeps what it is sent."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.data: dict[str, Any] = {}
        self.dropped = self.restored = False
        self.sent: list[str] = []

    def send(self, message: str | bytes) -> None:
        assert isinstance(message, str), "the bundled games speak text"
        assert "\n" not in message, "a message is one line, for players without WebSockets"
        message.encode()  # what cannot be encoded must not get here
        self.sent.append(message)

    def send_json(self, value: object) -> None:
        self.send(write_json(value))

    def take(self) -> list[dict[str, Any]]:
        """Return what was sent since the last time."""
        sent, self.sent = self.sent, []
        return [json.loads(message) for message in sent]


class FakeRoom:
    """Has clients, metadata and timed calls, and a game whose hooks it calls as a server does."""

    def __init__(self, game: Game) -> None:
        self.id = "room"
        self.clients: dict[int, FakeClient] = {}
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.game = game
        self._metadata = "null"
        self._last_id = 0
        game.on_create(cast(GameRoom, self))

    @property
    def metadata(self) -> Any:
        return json.loads(self._metadata)

    @metadata.setter
    def metadata(self, value: object) -> None:
        self._metadata = json.dumps(value, allow_nan=False)

    def broadcast(self, message: str | bytes, exclude: Iterable[FakeClient] = ()) -> None:
        for client in self.clients.values():
            if client not in exclude:
                client.send(message)

    def broadcast_json(self, value: object, exclude: Iterable[FakeClient] = ()) -> None:
        self.broadcast(write_json(value), exclude)

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        self.calls.append((seconds, function))

    # -- what a server does --

    def join(self, name: str | None = None) -> FakeClient:
        """Let a client in, which gives its name if it has one."""
        self._last_id += 1
        client = self.clients[self._last_id] = FakeClient(self._last_id)
        self.game.on_join(cast(Client, client))
        if name is not None:
            self.say(client, {"t": "name", "name": name})
        return client

    def say(self, client: FakeClient, message: object) -> None:
        """Hand the game a message of a client: text and bytes as they are, all else as JSON."""
        raw = message if isinstance(message, str | bytes) else json.dumps(message)
        self.game.on_message(cast(Client, client), raw)

    def leave(self, client: FakeClient) -> None:
        del self.clients[client.id]
        self.game.on_leave(cast(Client, client), 1006)

    def drop(self, client: FakeClient) -> None:
        """Let a client lose its connection, and keep its seat."""
        client.dropped = True
        self.game.on_drop(cast(Client, client))

    def resume(self, client: FakeClient, *, restored: bool = False) -> None:
        """Let it come back, having kept everything, or nothing at all."""
        client.dropped, client.restored = False, restored
        self.game.on_resume(cast(Client, client))


def arbitrary_messages(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[str | bytes]:
    """Return a strategy for anything that a client may send.

    Args:
        fields: by key, values that mean something to the game.
    """
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    values = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )
    near = {key: meant | values for key, meant in fields.items()}
    meant = st.fixed_dictionaries({}, optional=fields)
    return st.one_of(
        meant.map(json.dumps),
        st.fixed_dictionaries({}, optional=near).map(json.dumps),
        values.map(json.dumps),
        st.text(),
        st.binary(),
        st.sampled_from(["[" * 100_000, "9" * 5000, '{"t":"name","name":"\\ud800"}', '{"t":NaN}']),
    )
