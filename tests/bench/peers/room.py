"""A room as `scalesocket.py` has it, on the Python package `websockets`: a peer to compare with.

    python3 tests/bench/peers/room.py [--binary] [--compress] PORT COMMAND [ARGUMENTS...]

The first client of a path starts the command, all clients of the path share it, and the last one
to leave ends it. It is written as the package's documentation suggests: asyncio, one task for each
client, `broadcast()` for the output.
"""

from __future__ import annotations

import argparse
import asyncio
from asyncio.subprocess import PIPE, Process

from websockets.asyncio.server import ServerConnection, broadcast, serve

LIMIT = 1 << 24  # bytes of one message


class Room:
    """One child process, and the clients that share it."""

    def __init__(self, process: Process, binary: bool) -> None:
        self.clients: set[ServerConnection] = set()
        self.process = process
        self.binary = binary
        self.pump = asyncio.create_task(self.tell_all())

    async def tell_all(self) -> None:
        """Send what the child prints to every client."""
        output = self.process.stdout
        assert output is not None
        if self.binary:
            while data := await output.read(1 << 16):
                broadcast(self.clients, data)
        else:
            while line := await output.readline():
                broadcast(self.clients, line.rstrip(b"\n").decode())

    async def listen_to(self, client: ServerConnection) -> None:
        """Hand what a client sends to the child."""
        stdin = self.process.stdin
        assert stdin is not None
        async for message in client:
            data = message if isinstance(message, bytes) else message.encode()
            stdin.write(data if self.binary else data + b"\n")
            await stdin.drain()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--binary", action="store_true")
    parser.add_argument("--compress", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    rooms: dict[str, asyncio.Task[Room]] = {}

    async def start() -> Room:
        process = asyncio.create_subprocess_exec(
            *options.command, stdin=PIPE, stdout=PIPE, limit=LIMIT
        )
        return Room(await process, options.binary)

    async def handle(client: ServerConnection) -> None:
        assert client.request is not None
        path = client.request.path
        if path not in rooms:
            rooms[path] = asyncio.create_task(start())
        room = await rooms[path]
        room.clients.add(client)
        try:
            await room.listen_to(client)
        finally:
            room.clients.discard(client)
            if not room.clients and room.process.stdin is not None:
                rooms.pop(path, None)
                room.process.stdin.close()

    compression = "deflate" if options.compress else None
    settings = {"compression": compression, "ping_interval": None, "max_size": LIMIT}
    async with serve(handle, "127.0.0.1", options.port, backlog=1024, **settings):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
