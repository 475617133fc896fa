"""Dockerfile and compose.yaml, read and tried where there is no engine to build with.

What the Dockerfile copies is copied into an empty folder, and its command runs there as it stands,
but at a port that is free, and as the first process where one can be had.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.proxies import proxy
from tests.redis_server import RedisServer, running_redis
from tests.rooms.test_shared_rooms import come
from tests.support import (
    PATIENCE,
    ROOT,
    RawClient,
    ServerProcess,
    descendants,
    free_port,
    http_request,
    processes,
    require_tool,
    serve,
    wait_until,
)

PORT = "5000"  # of every server in a container
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = ["node-1", "node-2", "node-3"]
STORE = "redis://store:6379/0"
# Docker's `python3` is its own; here it is this one.
PYTHON = {"PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])}


class Instruction(NamedTuple):
    """One of a Dockerfile: its name, and the rest of its line."""

    name: str
    rest: str


def read_stages() -> dict[str, list[Instruction]]:
    """Return the Dockerfile's instructions by stage; the last stage is called ""."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    stages: dict[str, list[Instruction]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            instruction = Instruction(*line.split(maxsplit=1))
            if instruction.name == "FROM":
                stage = stages.setdefault(instruction.rest.partition(" AS ")[2], [])
            stage.append(instruction)
    return stages


STAGES = read_stages()


def find(name: str, stage: str = "server") -> list[str]:
    """Return what stands behind each instruction of a name."""
    return [instruction.rest for instruction in STAGES[stage] if instruction.name == name]


def command_of(arguments: list[str]) -> list[str]:
    """Return what a container runs with these arguments, at a port that the kernel picks."""
    entry: list[str] = json.loads(find("ENTRYPOINT")[0])
    return [word.replace(f":{PORT}", ":0") for word in entry] + arguments


def check_health(folder: Path, server: ServerProcess) -> int:
    """Return the exit status of the container's health check."""
    words: list[str] = json.loads(find("HEALTHCHECK")[0].partition("CMD")[2])
    command = [word.replace(PORT, str(server.port)) for word in words]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **PYTHON}, timeout=PATIENCE)
    return done.returncode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the container's working directory holds."""
    made = tmp_path_factory.mktemp("container")
    for rest in find("COPY"):
        *sources, target = rest.split()
        for name in sources:
            source, copy = ROOT / name, made / target
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
    return made


@contextlib.contextmanager
def container(
    folder: Path, arguments: list[str], addr: str | None = None
) -> Iterator[ServerProcess]:
    """Run what a container runs."""
    command = command_of(arguments)
    if addr:
        command[command.index("--addr") + 1] = addr
    with serve(command=command, addr=None, cwd=folder, env=PYTHON) as server:
        yield server


# ==== The Dockerfile ======================================================


def test_the_context_holds_what_the_dockerfile_copies_and_nothing_else() -> None:
    copied = {name for rest in find("COPY") for name in rest.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    first, *kept, last = [line for line in lines if not line.startswith("#")]
    assert (first, last) == ("*", "**/__pycache__")
    assert {line.removeprefix("!") for line in kept} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_it_is_slim_and_nobody_is_root() -> None:
    (base,) = find("FROM")
    assert base.startswith("python:3.") and "-slim" in base
    assert find("USER") == ["scalesocket"]
    after = [instruction.name for instruction in STAGES["server"]]
    assert not {"RUN", "COPY"} & set(after[after.index("USER") :])
    assert find("FROM", "") == ["server"]  # without --target


def test_the_sandbox_and_redis_have_what_they_need_as_the_tests_have_it() -> None:
    pinned = (ROOT / "tests/requirements.txt").read_text().splitlines()
    (install,) = [rest for rest in find("RUN") if rest.startswith("pip install")]
    packages = [word for word in install.split() if "==" in word]
    assert [word.partition("==")[0] for word in packages] == ["msgpack", "redis"]
    assert set(packages) <= set(pinned)


@pytest.mark.slow
def test_its_command_is_healthy_drains_and_reaps_as_the_first_process(folder: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if os.geteuid() == 0:
        unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"]).returncode != 0:
        pytest.skip("no process may have a table of its own here")
    arguments = json.loads(find("CMD")[0])
    command = [*unshare, *command_of(arguments)]
    with serve(command=command, addr=None, cwd=folder, env=PYTHON) as server:
        (first,) = server.children()
        assert check_health(folder, server) == 0
        assert b"<title>ScaleSocket</title>" in http_request(server, path="/").body
        with RawClient.connect(server, "meadow") as client:
            assert "Welcome" in client.receive_text()
            os.kill(first, signal.SIGTERM)
            wait_until(lambda: check_health(folder, server) == 1)
            client.send_text('{"t":"Input","data":{"x":123,"y":456}}')  # it plays on
            while '"x": 123' not in client.receive_text():
                pass
            client.close()
        assert server.wait() == 0


@pytest.mark.slow
def test_it_reaps_what_programs_leave_behind(folder: Path) -> None:
    litter = "(setsid sh -c 'exit 0' &) ; echo done; exec cat"
    with container(folder, ["sh", "--", "-c", litter]) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "done"
            wait_until(lambda: len(descendants(server.pid, processes())) == 1)


def test_haproxys_image_has_a_configuration_that_haproxy_takes(
    folder: Path, tmp_path: Path
) -> None:
    haproxy = require_tool("haproxy")
    made = tmp_path / "haproxy.cfg"
    (nodes,) = find("ARG", "proxy-config")
    (run,) = find("RUN", "proxy-config")
    (copy,) = find("COPY", "proxy")
    source = run.rpartition("> ")[2]
    assert copy == f"--from=proxy-config {source} /usr/local/etc/haproxy/haproxy.cfg"
    script = f"{nodes}\n{run.replace(source, os.fspath(made))}"
    environment = {**os.environ, **PYTHON}
    subprocess.run(["sh", "-ec", script], cwd=folder, env=environment, check=True, timeout=PATIENCE)
    subprocess.run([haproxy, "-c", "-f", made], check=True, timeout=PATIENCE)


# ==== compose.yaml ========================================================


def test_compose_has_a_port_of_this_machine_for_each_game() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {
        "multiplayer": [f"5000:{PORT}"],
        "snake": [f"5001:{PORT}"],
        "sandbox": [f"5002:{PORT}"],
        "cluster": ["5003:80"],
    }
    assert set(SERVICES) - set(ports) == {*NODES, "store"}
    assert set(NODES) == set(SERVICES["cluster"]["depends_on"])
    for name in set(SERVICES) - {"store"}:
        service = SERVICES[name]
        assert service["build"]["target"] == ("proxy" if name == "cluster" else "server")
        assert service["build"]["target"] in STAGES


def test_compose_leaves_a_server_the_time_that_its_end_takes() -> None:
    entry: list[str] = json.loads(find("ENTRYPOINT")[0])
    drain = float(entry[entry.index("--drain") + 1])
    for name in set(SERVICES) - {"cluster", "store"}:
        # The README: 10 s for programs to end, and 5 s more for what clients have not taken.
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= drain + 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "page"), [("multiplayer", "/"), ("snake", "/snake/"), ("sandbox", "/sandbox/")]
)
def test_a_service_serves_its_game(service: str, page: str, folder: Path) -> None:
    with container(folder, SERVICES[service]["command"]) as server:
        assert http_request(server, path=page).status == 200
        with RawClient.connect(server):
            pass


def test_compose_has_a_store_for_all_nodes_that_keeps_what_it_has() -> None:
    store = SERVICES["store"]
    assert store["command"] == ["redis-server", "--appendonly", "yes"]
    (volume,) = store["volumes"]
    name, _, place = volume.partition(":")
    assert name in COMPOSE["volumes"] and place == "/data"
    for node in NODES:
        assert f"--store={STORE}" in SERVICES[node]["command"]
        assert SERVICES[node]["depends_on"] == ["store"]


@pytest.mark.slow
def test_the_nodes_behind_haproxy_are_one_server(folder: Path, tmp_path: Path) -> None:
    """At addresses in place of the names that Docker's network has for them."""
    require_tool("haproxy")
    (named,) = find("ARG", "proxy-config")
    names = [f"{node}:{PORT}" for node in NODES]
    assert named == f'NODES="{" ".join(names)}"'
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(running_redis(tmp_path / "redis"))
        servers = []
        addresses = [f"127.0.0.{number}:{free_port(f'127.0.0.{number}')}" for number in (2, 3, 4)]
        for node, address in zip(NODES, addresses, strict=True):
            arguments = " ".join(SERVICES[node]["command"])
            for name, other in zip(names, addresses, strict=True):
                assert name in arguments
                arguments = arguments.replace(name, other)
            trusted = arguments.replace("--trustproxy=", "--trustproxy=127.0.0.0/8,")
            placed = trusted.replace(STORE, store.url)
            servers.append(stack.enter_context(container(folder, placed.split(), address)))
        front = stack.enter_context(proxy("haproxy", tmp_path, addresses))
        assert http_request(front, path="/").status == 200
        rooms = [f"room-{number}" for number in range(6)]
        for room in rooms:
            one = stack.enter_context(RawClient.connect(front, room))
            other = stack.enter_context(RawClient.connect(front, room))
            one.send_text('{"t":"Input","data":{"x":123,"y":456}}')
            while '"x": 123' not in other.receive_text():
                pass
        listed = json.loads(http_request(front, path="/api/rooms/").body)
        assert sorted(room["name"] for room in listed) == rooms
        seats = [come(front, room) for room in rooms]
        wait_until(lambda: all(has_seat(store, *pair) for pair in zip(rooms, seats, strict=True)))
        servers[0].kill()
        for (client, seat), room in zip(seats, rooms, strict=True):
            client.sock.close()
            again, now = come(front, room, seat["token"])
            assert now["resumed"] and now["id"] == seat["id"]
            again.close()


def has_seat(store: RedisServer, room: str, found: tuple[RawClient, dict[str, Any]]) -> bool:
    """Whether a seat is stored, with its room or since."""
    key, number = f"scalesocket:room:{room}", found[1]["id"]
    with_room = f"[{number}," in (store.ask("HGET", key, "seats") or "")
    return with_room or bool(store.ask("HEXISTS", key, f"seat:{number}"))
