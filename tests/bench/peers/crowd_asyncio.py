"""The crowd's room on asyncio: see crowd_game.py.

    python3 tests/bench/peers/crowd_asyncio.py websockets|picows PORT

On the package `websockets` it is written as its documentation suggests, with `broadcast()`; on
`picows` with a listener for each client, and on uvloop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

RATE = float(os.environ.get("CROWD_RATE", "20"))
SIZE = int(os.environ.get("CROWD_SIZE", "400"))


class Room:
    """Its clients, and a task that ticks for as long as there are any."""

    def __init__(self, tell: Callable[[set[object], str], None]) -> None:
        self.clients: set[object] = set()
        self.tick = self.heard = 0
        self.tell = tell
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += 1 / RATE
            await asyncio.sleep(due - loop.time())
            self.tick += 1
            head = f'{{"t":"state","tick":{self.tick},"heard":{self.heard},"pad":"'
            self.tell(self.clients, f'{head:.<{SIZE - 2}}"}}')


class Rooms:
    """The rooms by path."""

    def __init__(self, tell: Callable[[set[object], str], None]) -> None:
        self.tell = tell
        self.rooms: dict[str, Room] = {}

    def join(self, path: str, client: object) -> Room:
        path = path.partition("?")[0]
        if path not in self.rooms:
            self.rooms[path] = Room(self.tell)
        self.rooms[path].clients.add(client)
        return self.rooms[path]

    def leave(self, path: str, client: object) -> None:
        room = self.rooms[path.partition("?")[0]]
        room.clients.discard(client)
        if not room.clients:
            room.task.cancel()
            del self.rooms[path.partition("?")[0]]


async def serve_websockets(port: int) -> None:
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    rooms = Rooms(broadcast)

    async def handle(client: ServerConnection) -> None:
        path = client.request.path
        room = rooms.join(path, client)
        try:
            async for _ in client:
                room.heard += 1
        finally:
            rooms.leave(path, client)

    options = {"compression": None, "ping_interval": None, "backlog": 1024}
    async with serve(handle, "127.0.0.1", port, **options):
        await asyncio.get_running_loop().create_future()


async def serve_picows(port: int) -> None:
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

    def tell(clients: set[object], state: str) -> None:
        data = state.encode()
        for client in clients:
            client.send(WSMsgType.TEXT, data)

    rooms = Rooms(tell)

    class Player(WSListener):
        def __init__(self, path: str) -> None:
            self.path = path

        def on_ws_connected(self, transport: WSTransport) -> None:
            self.room = rooms.join(self.path, transport)

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.TEXT:
                frame.get_payload_as_utf8_text()
                self.room.heard += 1
            elif frame.msg_type == WSMsgType.CLOSE:
                transport.disconnect()

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            rooms.leave(self.path, transport)

    def make(request: object) -> Player:
        return Player(request.path.decode())

    server = await ws_create_server(make, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    package, port = sys.argv[1], int(sys.argv[2])
    if package == "picows":
        import uvloop

        uvloop.run(serve_picows(port))
    else:
        asyncio.run(serve_websockets(port))


if __name__ == "__main__":
    main()
