"""The load generator, in a process of its own so that it can be told from the server.

    python3 -m tests.bench.load '{"load": "closed_loop", "port": 9000, "pid": 4711, "count": 2000}'

It prints one JSON object: rates, latencies, what was lost, and what the server and it itself used.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import quantiles
from typing import Any

from tests.bench.clients import (
    Account,
    Client,
    Crowd,
    ExactReader,
    FrameReader,
    Job,
    Reader,
    client_frames,
    clock,
    make_json_payloads,
    make_payloads,
    open_clients,
    server_frames,
)
from tests.bench.processes import BenchError, children_cpu_seconds, cpu_seconds, memory

WARM_UP = 20  # round trips that are not counted: the program is being started


# ==== 1. Measuring ========================================================


class Watch:
    """Time, and what the server, its programs and this process use, from now on."""

    def __init__(self, job: Job) -> None:
        self._pid = job.pid
        self._children = children_cpu_seconds(job.pid)
        self._own = time.process_time()
        self._server = cpu_seconds(job.pid)
        self._start = clock()

    def stop(self, ended_at: float | None = None) -> dict[str, float]:
        """Return the seconds of each.

        Args:
            ended_at: when the last thing happened, if that was before now.
        """
        server, own, now = cpu_seconds(self._pid), time.process_time(), clock()
        seconds = (ended_at or now) - self._start
        return {
            "seconds": seconds,
            "server_cpu": server - self._server,
            "children_cpu": children_cpu_seconds(self._pid) - self._children,
            "generator": (own - self._own) / max(now - self._start, 1e-9),
        }


Result = dict[str, Any]


def conclude(
    used: dict[str, float],
    sums: Account,
    complete: bool,
    times: Sequence[float] = (),
    note: str = "",
) -> Result:
    """Return a result: totals become figures per message.

    Args:
        used: what `Watch.stop` said.
        sums: of all clients.
        complete: all came; if not, a rate or a latency would say nothing.
        times: latencies in seconds.
    """
    each = max(1, sums.received)
    figures: Result = {"generator": used["generator"]}
    if complete:
        figures["rate"] = sums.received / used["seconds"]
        figures["cpu"] = used["server_cpu"] / each
        figures["children_cpu"] = used["children_cpu"] / each
    if complete and len(times) > 1:
        centiles = quantiles(times, n=100, method="inclusive")
        figures |= {"p50": centiles[49], "p99": centiles[98]}
    return figures | sums._asdict() | {"complete": complete, "note": note}


# ==== 2. The loads ========================================================


def expect(job: Job, clients: Sequence[Client], payloads: Sequence[bytes]) -> int:
    """Give each client a reader for these messages; return the progress that it must make."""
    if "binary" in job.modes:
        readers: list[Reader] = [FrameReader(by_bytes=True) for _ in clients]
        goal = sum(map(len, payloads))
    elif {"compress", "json"} & set(job.modes):
        readers, goal = [FrameReader() for _ in clients], len(payloads)
    else:
        frames = server_frames(job, payloads)
        readers, goal = [ExactReader(frames) for _ in clients], len(frames)
    for client, reader in zip(clients, readers, strict=True):
        client.expect(reader)
    return goal


def pour(job: Job) -> Result:
    """In each room one client sends without waiting, and all clients of the room get it.

    If they read late there is no rate, for it would be that of buffers.
    """
    payloads = make_payloads(job.count, job.size)
    frames = client_frames(job, payloads)
    paths = [f"room{number // job.clients}" for number in range(job.rooms * job.clients)]
    clients, _ = open_clients(job, paths)
    senders = clients[:: job.clients]
    goal = expect(job, clients, payloads)
    for sender in senders:
        sender.outbox = memoryview(frames)
    crowd = Crowd(job, clients)
    note = ""
    watch = Watch(job)
    if job.late:
        note = f"{fill(senders[0]) / len(frames):.0%} was sent before reading"
    for sender in senders:
        crowd.send(sender, sender.outbox)
    complete = crowd.pump(goal)
    used = watch.stop(crowd.moved_at)
    if "compress" in job.modes:
        wire = sum(c.reader.size for c in clients if isinstance(c.reader, FrameReader))
        note = f"{wire / len(clients) / job.count:.0f} bytes on the wire for each"
    result = conclude(used, crowd.account(payloads), complete, note=note)
    return {**result, "rate": None} if job.late else result


def fill(client: Client) -> int:
    """Send until nothing is taken for half a second; return how many bytes that was."""
    before = len(client.outbox)
    poll = select.poll()
    poll.register(client.sock, select.POLLOUT)
    while client.outbox and poll.poll(500):
        client.send_some()
    return before - len(client.outbox)


def closed_loop(job: Job) -> Result:
    """One client sends a message when all of its room have the last one."""
    payloads = make_payloads(WARM_UP + job.count, job.size)
    frames = [client_frames(job, [payload]) for payload in payloads]
    clients, _ = open_clients(job, ["loop"] * job.clients)
    step = expect(job, clients, payloads) // len(frames)
    crowd = Crowd(job, clients)
    times: list[float] = []
    watch = Watch(job)
    for number, frame in enumerate(frames):
        if number == WARM_UP:
            watch = Watch(job)
        sent = clock()
        crowd.send(clients[0], frame)
        if not crowd.pump((number + 1) * step):
            break
        times.append(clock() - sent)
    used = watch.stop(crowd.moved_at)
    sums = crowd.account(payloads)
    counted = sums._replace(received=max(0, sums.received - WARM_UP * job.clients))
    return conclude(used, counted, len(times) == len(frames), times[WARM_UP:])


def paced(job: Job) -> Result:
    """One client sends at a steady rate; the latency is from sending to each client's reading."""
    payloads = make_payloads(job.count, job.size)
    frames = [client_frames(job, [payload]) for payload in payloads]
    clients, _ = open_clients(job, ["paced"] * job.clients)
    goal = expect(job, clients, payloads)
    step = goal // len(frames)
    crowd = Crowd(job, clients)
    sent, times = array("d"), array("d")

    def note(before: int, after: int) -> None:
        now = clock()
        for number in range(before // step, min(after // step, len(sent))):
            times.append(now - sent[number])

    watch = Watch(job)
    start = clock()
    for number, frame in enumerate(frames):
        crowd.pump(goal, until=start + number / job.rate, note=note)
        sent.append(clock())
        crowd.send(clients[0], frame)
    complete = crowd.pump(goal, note=note)
    used = watch.stop(crowd.moved_at)
    return conclude(used, crowd.account(payloads), complete, times)


def storm(job: Job) -> Result:
    """Many clients enter one room, some at a time; afterwards one message must reach them all."""
    watch = Watch(job)
    clients, times = open_clients(job, ["storm"] * job.clients)
    used = watch.stop()
    payloads = make_payloads(1, job.size)
    goal = expect(job, clients, payloads)
    crowd = Crowd(job, clients)
    crowd.send(clients[0], client_frames(job, payloads))
    complete = crowd.pump(goal)
    return conclude(used, crowd.account(payloads), complete, times)


def spawn(job: Job) -> Result:
    """Many clients each enter a room of their own; one is in when it has its first message back."""
    payloads = make_payloads(1, job.size)
    paths = [f"spawn{number}" for number in range(job.rooms)]
    answer = server_frames(job, payloads)
    watch = Watch(job)
    clients, times = open_clients(job, paths, client_frames(job, payloads), len(answer))
    used = watch.stop()
    expect(job, clients, payloads)
    return conclude(used, Crowd(job, clients).account(payloads), True, times)


def idle(job: Job) -> Result:
    """Many clients sit in one room; one calls, and every one answers the program (census.py)."""
    first, _ = open_clients(job, ["idle"])
    before = settle(job.pid)
    watch = Watch(job)
    others, _ = open_clients(job, ["idle"] * (job.clients - 1))
    connected = clock()
    each = (settle(job.pid) - before) / max(1, job.clients - 1)
    clients = first + others
    payloads = [text.ljust(job.size - 1).encode() for text in (f"call {job.clients}", "all")]
    goal = expect(job, clients, payloads)
    crowd = Crowd(job, clients)
    crowd.send(clients[0], client_frames(job, payloads[:1]))
    complete = crowd.pump(goal // 2)
    called = clock()
    here = client_frames(job, [b"here"])
    for client in clients:
        crowd.send(client, here)
    complete = crowd.pump(goal) and complete
    used = watch.stop(connected)
    got = Counter(client.reader.progress >= goal for client in clients)
    sums = Account(received=got[True], lost=got[False])
    note = f"{crowd.moved_at - called:.2f} s until all had answered" if complete else ""
    return conclude(used, sums, complete, note=note) | {"idle_client": each}


def settle(pid: int) -> int:
    """Wait until a server's resident memory grows no more; return it, in bytes."""
    sizes = [0, memory(pid, "VmRSS")]
    while abs(sizes[-1] - sizes[-2]) > 1 << 16 and len(sizes) < 50:
        time.sleep(0.2)
        sizes.append(memory(pid, "VmRSS"))
    return sizes[-1]


def neighbour(job: Job) -> Result:
    """One client floods a room, from another process, while another's echo is measured."""
    flooding = replace(job, load="flood", count=20_000)
    command = [sys.executable, "-m", "tests.bench.load", json.dumps(asdict(flooding))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdout.readline()  # it has begun
            result = closed_loop(job)
            process.stdin.close()
            flood_result = json.loads(process.stdout.readline() or "{}")
        finally:
            process.kill()
    if flood_result.get("complete"):
        return result | {"note": f"the flood: {flood_result['rate']:,.0f} msg/s"}
    quiet = dict.fromkeys(("rate", "p50", "p99", "cpu", "children_cpu"))
    return (
        result | quiet | {"complete": False, "note": "the flood stopped: nothing to measure beside"}
    )


def flood(job: Job) -> Result:
    """Pour again and again, until stdin ends."""
    payloads = make_payloads(job.count, job.size)
    frames, reply = client_frames(job, payloads), server_frames(job, payloads)
    [client], _ = open_clients(job, ["flood"])
    crowd = Crowd(job, [client])
    received, start, complete = 0, clock(), True
    print("flooding", flush=True)
    while complete and not select.select([sys.stdin], [], [], 0)[0]:
        client.expect(ExactReader(reply))
        crowd.send(client, frames)
        complete = crowd.pump(len(reply))
        received += client.reader.account(payloads).received
    return {"rate": received / (clock() - start), "complete": complete}


def tagged(job: Job) -> Result:
    """One client sends JSON to itself, through a room where another must hear nothing of it."""
    clients, _ = open_clients(job, ["json"])
    own = hear_join(job, clients)
    bystanders, _ = open_clients(job, ["json"])
    hear_join(job, clients)
    payloads = make_json_payloads(job.count, job.size, own)
    frames = client_frames(job, payloads)
    goal = expect(job, clients, payloads)
    overheard = FrameReader()
    bystanders[0].expect(overheard)
    crowd = Crowd(job, clients)
    watch = Watch(job)
    crowd.send(clients[0], frames)
    complete = crowd.pump(goal)
    used = watch.stop(crowd.moved_at)
    Crowd(job, bystanders).pump(1 << 62, until=clock() + 0.3)
    astray = sum(b'"n"' in payload for _, payload in overheard.frames)
    sums = crowd.account(payloads)
    return conclude(used, sums._replace(damaged=sums.damaged + astray), complete)


def hear_join(job: Job, clients: Sequence[Client]) -> int:
    """Wait for the next message, which tells of a client that joined; return its ID.

    Raises:
        BenchError: no such message comes.
    """
    heard = FrameReader()
    clients[0].expect(heard)
    if not Crowd(job, clients).pump(1):
        raise BenchError("no client has been told of a join")
    return int(json.loads(heard.frames[0][1])["_from"])


LOADS: dict[str, Callable[[Job], Result]] = {
    load.__name__: load
    for load in (pour, closed_loop, paced, storm, spawn, idle, neighbour, flood, tagged)
}


def main() -> None:
    """Run one load and print its result."""
    job = Job(**json.loads(sys.argv[1]))
    try:
        result = LOADS[job.load](job)
    except (BenchError, OSError) as error:
        result = {"note": f"failed: {error}"}
    print(json.dumps(result), flush=True)
    os._exit(0)  # thousands of sockets need no tidying up


if __name__ == "__main__":
    main()
