"""What is installed is one name; the server copied alone needs nothing but Python."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import scalesocket.net.config as net_config

from tests.rooms.test_lossless import flood
from tests.support import (
    PATIENCE,
    ROOT,
    SCRIPT,
    HandshakeRefused,
    RawClient,
    http_request,
    read_process,
    serve,
    wait_until,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out


TOP_LEVEL = {
    ".ci",
    ".dockerignore",
    ".gitattributes",
    ".gitignore",
    "CHANGELOG.md",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "client",
    "compose.yaml",
    "game",
    "net",
    "pyproject.toml",
    "scalesocket.py",
    "tests",
}
PIP_PATIENCE = 3 * PATIENCE  # seconds; pip alone takes ten times as long to begin as a server
ALONE = [sys.executable, "-I", "-S"]  # no PYTHON* variables, no installed packages
HOME_PATH = re.compile(rb"(?:/home/|/Users/|/root/|[A-Z]:\\Users\\)[A-Za-z0-9_.-]+")


def tracked_files() -> list[str]:
    """Return what git tracks or is about to; skip the test outside a clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def parts() -> list[str]:
    """Return the files of our folders, as git names them."""
    return [name for name in tracked_files() if name.startswith(("net/", "game/", "client/"))]


def files_of(wheel: Path) -> set[str]:
    """Return the names of what a wheel installs beside its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def build_wheel(sources: Path, folder: Path) -> Path:
    """Build a wheel into a folder, and return its path."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(folder), str(sources)],
        capture_output=True,
        text=True,
        timeout=PIP_PATIENCE,
    )
    assert (built.returncode, built.stdout, built.stderr) == (0, "", ""), "not one warning"
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what the package is built from, so that the clone stays clean."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("scalesocket.py", "pyproject.toml", "README.md", "LICENSE", *parts()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "tests").mkdir()  # what must not slip into the wheel
    (folder / "tests" / "__init__.py").touch()
    return folder


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(sources, tmp_path_factory.mktemp("wheel"))


def run_pip(python: Path, *words: str) -> None:
    """Run pip for the environment of another Python."""
    command = [sys.executable, "-m", "pip", "--python", str(python), *words]
    subprocess.run(command, check=True, timeout=PIP_PATIENCE)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of commands of a fresh environment that has the wheel, and nothing else."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(environment, with_pip=False)
    folder = environment / ("Scripts" if os.name == "nt" else "bin")
    run_pip(folder / "python", "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    return folder


@pytest.fixture
def copied_alone(tmp_path: Path) -> Path:
    """Return a copy of the server in a folder of its own."""
    return Path(shutil.copy(SCRIPT, tmp_path))


def version() -> str:
    """Read the version from the source, without running it."""
    found = re.search(r'^__version__\b.*= "([^"]+)"$', SCRIPT.read_text("utf-8"), re.MULTILINE)
    assert found, "scalesocket.py sets no __version__"
    return found[1]


def test_the_wheel_holds_everything_under_one_name(wheel: Path) -> None:
    names = ("README.md", *parts())
    assert files_of(wheel) == {"scalesocket.py", *(f"scalesocket/{name}" for name in names)}


def test_a_wheel_of_the_source_distribution_is_the_same(
    sources: Path, wheel: Path, tmp_path: Path
) -> None:
    program = "import hatchling.build as b, sys; b.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=sources,
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    [archive] = tmp_path.glob("*.tar.gz")
    assert files_of(build_wheel(archive, tmp_path)) == files_of(wheel)


def test_the_wheel_names_its_version_license_and_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode().splitlines()
        assert any(name.endswith("/LICENSE") for name in archive.namelist())
    assert f"Version: {version()}" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    required = [line for line in metadata if line.startswith("Requires-Dist:")]
    assert len(required) == 2 and "msgpack" in required[0] and "redis" in required[1]
    assert all("extra ==" in line for line in required), "alone it needs nothing"


def test_the_installed_command_runs(installed: Path) -> None:
    command = [str(installed / "scalesocket")]
    shown = subprocess.run([*command, "-V"], capture_output=True, text=True, timeout=PATIENCE)
    assert shown.returncode == 0
    assert version() in shown.stdout
    with serve("cat", command=command) as server, RawClient.connect(server) as client:
        client.send_text("hello")
        assert client.receive_text() == "hello"


@pytest.mark.parametrize(
    ("options", "page"),
    [
        (("snake",), "/snake/"),
        (("--console", "--trace", "--pcap", "play.pcapng", "cat"), "/console/"),
        (("--workers", "2", "--metrics", "cat"), "/metrics"),
    ],
    ids=["snake", "console", "workers"],
)
def test_what_is_installed_has_its_modules_games_and_pages(
    installed: Path, tmp_path: Path, options: tuple[str, ...], page: str
) -> None:
    (tmp_path / "net").mkdir()  # a user's own, which is none of ours
    command = [str(installed / "scalesocket")]
    with serve(*options, command=command, cwd=tmp_path) as server:
        assert http_request(server, path=page).status == 200
        with RawClient.connect(server):
            pass


def test_an_installed_server_makes_a_new_game_that_it_serves(
    installed: Path, tmp_path: Path
) -> None:
    command = [str(installed / "scalesocket")]
    done = subprocess.run(
        [*command, "new", "mygame"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout.endswith("  cd mygame\n  scalesocket mygame.py\n")
    with serve("mygame.py", command=command, cwd=tmp_path / "mygame") as server:
        assert http_request(server, path="/").status == 200
        with RawClient.connect(server) as client:
            assert "welcome" in client.receive_text()


def test_an_installed_client_runs(installed: Path, tmp_path: Path) -> None:
    shown = subprocess.run(
        [str(installed / "python"), "-m", "scalesocket.client.snake", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "usage" in shown.stdout


def test_the_installed_sandbox_says_that_it_needs_msgpack(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(installed / "scalesocket"), "sandbox"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "pip install msgpack" in done.stderr


def test_uninstalling_leaves_nothing(wheel: Path, tmp_path: Path) -> None:
    def installed_files() -> set[Path]:
        folders = (tmp_path.glob("venv/lib/*/site-packages/*"), tmp_path.glob("venv/bin/*"))
        return {path for folder in folders for path in folder}

    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    before = installed_files()
    run_pip(python, "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    added = {path.name.partition("-")[0] for path in installed_files() - before}
    assert added - {"__pycache__"} == {"scalesocket", "scalesocket.py"}
    run_pip(python, "uninstall", "--quiet", "--yes", "scalesocket")
    assert {path for path in installed_files() - before if path.name != "__pycache__"} == set()


def test_a_lone_copy_tells_its_version(copied_alone: Path) -> None:
    shown = subprocess.run(
        [*ALONE, str(copied_alone), "--version"],
        cwd=copied_alone.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert version() in shown.stdout


def test_the_options_of_a_lone_copy_can_be_copied(copied_alone: Path) -> None:
    """A special method was taken for an option of net/, and was empty, as those are."""
    program = "import copy, scalesocket as s; c = s.Config(api=True); assert copy.deepcopy(c) == c"
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=copied_alone.parent,
        env={**os.environ, "PYTHONPATH": ""},
        check=True,
        timeout=PATIENCE,
    )


def test_a_lone_copy_serves(copied_alone: Path) -> None:
    command = [*ALONE, str(copied_alone)]
    with serve("cat", command=command, cwd=copied_alone.parent) as server:
        with RawClient.connect(server, "lobby") as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"


def test_a_lone_copy_that_only_this_machine_reaches_is_for_pages_of_this_machine(
    copied_alone: Path,
) -> None:
    """Any page in a browser on this machine can reach it, and could play with its program."""
    command = [*ALONE, str(copied_alone)]
    with serve("--api", "cat", command=command, cwd=copied_alone.parent) as server:
        for strange in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            with pytest.raises(HandshakeRefused) as refused:
                RawClient.connect(server, headers=strange)
            assert refused.value.status == 403
            assert http_request(server, path="/api/", headers=strange).status == 403
        for ours in ({"Origin": "http://localhost:8000"}, {"Host": "scalesocket"}):
            with RawClient.connect(server, headers=ours) as client:
                client.send_text("hello")
                assert client.receive_text() == "hello"
            assert http_request(server, path="/api/", headers=ours).status == 200
        assert http_request(server, path="/health", headers={"Host": "a.example"}).status == 200


def test_a_lone_copy_says_where_it_cannot_listen(copied_alone: Path) -> None:
    """It listens at one address of a name; net/addresses.py at all, and it names another port."""
    command = [*ALONE, str(copied_alone)]
    with serve("cat", addr="localhost:0", command=command, cwd=copied_alone.parent) as server:
        told = subprocess.run(
            [*command, "--addr", f"localhost:{server.port}", "cat"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    said = f"scalesocket: cannot listen at localhost:{server.port}: "
    assert (told.returncode, told.stderr.count("\n")) == (1, 1) and told.stderr.startswith(said)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_a_lone_copy_that_listens_at_all_addresses_takes_ipv4_too(copied_alone: Path) -> None:
    """Whoever gave it `[::]`, as it is with net/, was found by IPv6 alone."""
    command = [*ALONE, str(copied_alone)]
    with serve("cat", addr="[::]:0", command=command, cwd=copied_alone.parent) as server:
        socket.create_connection(("127.0.0.1", server.port), PATIENCE).close()


def test_a_lone_copy_takes_no_users_package_for_ours(copied_alone: Path) -> None:
    folder = copied_alone.parent / "net"
    folder.mkdir()
    for name in ("__init__", "logs", "history", "files", "pages", "descendants", "linebuffer"):
        (folder / f"{name}.py").write_text("raise SystemExit('this is not for the server')\n")
    options = ("--staticdir", "net")
    command = [*ALONE, str(copied_alone)]
    with serve(*options, "cat", command=command, cwd=copied_alone.parent) as server:
        with RawClient.connect(server) as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"


def test_a_lone_copy_tells_who_comes_by_id_and_what_more_needs(copied_alone: Path) -> None:
    command = [*ALONE, str(copied_alone)]
    with serve("--json", "cat", command=command) as server, RawClient.connect(server) as client:
        assert client.receive_json() == {"t": "Join", "_from": 1}
    done = subprocess.run(
        [*command, "--leavemsg", "#ID left #ROOM", "cat"], capture_output=True, timeout=PATIENCE
    )
    assert (
        done.returncode == 2
        and b"more than #ID in --joinmsg or --leavemsg needs the folder net/" in done.stderr
    )


def test_a_lone_copy_says_what_one_field_for_both_ways_needs(copied_alone: Path) -> None:
    """A join message that puts the ID there asks for it; where there are no fields it may."""
    command = [*ALONE, str(copied_alone)]
    named = ["--joinmsg", '{"id":#ID}', "cat"]
    done = subprocess.run(
        [*command, "--json", *named], capture_output=True, text=True, timeout=PATIENCE
    )
    told = "scalesocket: --idfield needs the folder net/ beside scalesocket.py (try --help)\n"
    assert (done.returncode, done.stderr) == (2, told)
    with serve(*named, command=command) as server, RawClient.connect(server) as client:
        assert client.receive_json() == {"id": 1}


def test_a_lone_copy_takes_out_of_messages_what_clients_must_not_say(copied_alone: Path) -> None:
    """With net/framings.py all else keeps its bytes, too; here numbers may be spelled anew."""
    command = [*ALONE, str(copied_alone)]
    with serve("--frame", "cat", command=command) as server, RawClient.connect(server) as client:
        client.send_text('{"_from":7,"_to":9,"\\u005fTO":9,"x":1.50,"s":"\\ud800","n":{"_to":1}}')
        assert client.receive_text() == '{"_from":1,"x":1.5,"s":"\\ud800","n":{"_to":1}}'
        client.send_text('{"_to":9}')
        assert client.receive_text() == '{"_from":1}'
        client.send_text('{"_to":9,"x":1e999}')  # no number that can be written again
        client.send_text('{"x":1.50}')
        assert client.receive_text() == '{"_from":1,"x":1.50}'
        server.wait_log("message is not a JSON object")


def test_a_lone_copy_keeps_what_a_program_says_of_its_room(copied_alone: Path) -> None:
    command = [*ALONE, str(copied_alone)]
    says = """echo '{"_meta":true,"map":"cave","n":1.50}'; echo ready; cat"""
    options = ("--frame", "--api", "sh", "--", "-c", says)
    with serve(*options, command=command) as server, RawClient.connect(server, "lobby") as client:
        assert client.receive_text() == "ready"
        told = http_request(server, path="/api/lobby/metadata").body
        assert told == b'{"map":"cave","n":1.5}'


def test_a_lone_copy_serves_files_and_says_which_rooms_there_are(copied_alone: Path) -> None:
    """Whole files; the parts of one, and word that it has not changed, are for net/files.py."""
    pages = copied_alone.parent / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("<h1>Play</h1>")
    (pages / "app.js.gz").write_bytes(b"packed")
    options = ("--staticdir", "pages", "--api")
    command = [*ALONE, str(copied_alone)]
    with serve(*options, "cat", command=command, cwd=copied_alone.parent) as server:
        page = http_request(server, path="/", headers={"Range": "bytes=0-3"})
        assert (page.status, page.body) == (200, b"<h1>Play</h1>")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        packed = http_request(server, path="/app.js.gz")
        assert packed.headers["content-type"] == "application/octet-stream"
        assert "content-encoding" not in packed.headers
        assert http_request(server, path="/api/rooms/").body == b"[]"


def test_a_lone_copy_stops_what_its_program_has_started(copied_alone: Path) -> None:
    """In the program's process group: sessions of their own are for net/descendants.py."""
    script = "sleep 1000 & echo $!; exec cat"
    with serve("sh", "--", "-c", script, command=[*ALONE, str(copied_alone)]) as server:
        with RawClient.connect(server) as client:
            started = int(client.receive_text())
            assert read_process(started) is not None
            client.close()
        wait_until(lambda: (process := read_process(started)) is None or process.state == "Z")


@pytest.mark.parametrize("ends", ["exit 3", "sleep 1000 & exit 3", "exec >&-; exec sleep 1000"])
def test_a_lone_copy_notices_that_its_program_has_ended(copied_alone: Path, ends: str) -> None:
    """Also while what it has started may still print, or when it prints nothing any more."""
    script = f"read line; echo last words; echo why >&2; {ends}"
    with serve("sh", "--", "-c", script, command=[*ALONE, str(copied_alone)]) as server:
        with RawClient.connect(server) as client:
            client.send_text("go")
            assert client.receive_text() == "last words"
            assert client.wait_close()[0] == (1000 if ">&-" in ends else 1011)
        server.wait_log("stderr: why")
        wait_until(lambda: not server.children())


def test_a_lone_copy_runs_a_game(copied_alone: Path) -> None:
    """With ticks and timed calls; a hook that raises ends its room."""
    game = """
from scalesocket import Game

class Clock(Game):
    tick_rate = 50

    def on_create(self, room):
        self.room, self.ticks = room, 0

    def on_tick(self, dt):
        self.ticks += 1

    def on_message(self, client, message):
        self.room.call_later(0.1, lambda: client.send(f"{self.ticks > 0} {message}"))
        self.room.broadcast(message)
        if message == "what is no function":
            self.room.call_later(0.0, message)
"""
    copied_alone.with_name("own.py").write_text(game)
    command = [*ALONE, str(copied_alone)]
    with serve(
        "own:Clock", command=command, cwd=copied_alone.parent, allow_traceback=True
    ) as server:
        with RawClient.connect(server) as client, RawClient.connect(server) as other:
            client.send_text("hello")
            assert (client.receive_text(), other.receive_text()) == ("hello", "hello")
            assert client.receive_text() == "True hello"
            client.send_text("what is no function")
            assert client.wait_close() == (1011, "the game failed")


def test_a_lone_copy_refuses_a_game_that_says_who_may_come_in(copied_alone: Path) -> None:
    """Who is asked on a thread that may wait is for net/auth.py; nobody comes in unasked."""
    game = """
from scalesocket import Game

class Open(Game):
    pass

class Closed(Open):
    @classmethod
    def on_auth(cls, request):
        return False

class Inherits(Closed):
    pass
"""
    copied_alone.with_name("own.py").write_text(game)
    command = [*ALONE, str(copied_alone), "--addr", "127.0.0.1:0"]
    for name in ("Closed", "Inherits"):
        done = subprocess.run(
            [*command, f"own:{name}"],
            cwd=copied_alone.parent,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        told = "scalesocket: on_auth of a game needs the folder net/ beside scalesocket.py\n"
        assert (done.returncode, done.stderr) == (2, told)
    with serve("own:Open", command=command[:-2], cwd=copied_alone.parent) as server:
        RawClient.connect(server).close()


def test_a_lone_copy_starts_its_program_again(copied_alone: Path) -> None:
    script = "read join; echo $join is here; read line; echo it says $line"
    options = ("--respawn", "--joinmsg", "#ID")
    with serve(*options, "sh", "--", "-c", script, command=[*ALONE, str(copied_alone)]) as server:
        with RawClient.connect(server) as client:
            for word in ("one", "two"):
                assert client.receive_text() == "1 is here"
                client.send_text(word)
                assert client.receive_text() == f"it says {word}"


def test_a_lone_copy_gives_up_on_a_program_that_reads_nothing(copied_alone: Path) -> None:
    options = ("sh", "--", "-c", "echo up; exec sleep 1000")
    with serve(*options, command=[*ALONE, str(copied_alone)]) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "up"
            client.send_text("x" * 500_000)
        server.wait_log("the child took no input; what it was sent is dropped")
        wait_until(lambda: not server.children())


def test_a_lone_copy_ends_a_room_whose_clients_have_gone_unread(copied_alone: Path) -> None:
    """They had said more than there is room for, so nobody read their end (net/presence.py)."""
    options = ("sh", "--", "-c", "read line; echo $line; exec sleep 1000")
    with serve(*options, command=[*ALONE, str(copied_alone)]) as server:
        with RawClient.connect(server) as sender, RawClient.connect(server) as other:
            sender.send_text("up")
            assert (sender.receive_text(), other.receive_text()) == ("up", "up")
            flood(sender)
            assert other.close() == (1000, "")
            assert server.children()
        server.wait_log("the child took no input; what it was sent is dropped")
        server.wait_log("room closed")
        wait_until(lambda: not server.children())


def test_a_lone_copy_has_the_system_ask_who_is_silent(copied_alone: Path) -> None:
    """Whose network is gone would stay a client for ever; with net/pings.py it is pinged."""
    program = """
import contextlib, socket
with contextlib.ExitStack() as opened:
    config = scalesocket.Config(addr=(("127.0.0.1", 0),))
    [listener], _ = scalesocket.open_listeners(opened, config)
    with socket.create_connection(listener.getsockname()), listener.accept()[0] as ours:
        print(ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0)
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL") if sys.platform == "linux" else ():
            print(ours.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == 20)
"""
    assert set(import_alone(copied_alone, program).split()) == {"True"}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_lone_copy_ends_at_a_signal_and_at_once_at_a_second_one(
    copied_alone: Path, name: str
) -> None:
    """The first one gives programs some time to end in (STOP_STEPS); a second one cuts it short."""
    number = getattr(signal, name)
    command = [*ALONE, str(copied_alone)]
    with serve("cat", command=command) as server, RawClient.connect(server) as client:
        server.process.send_signal(number)
        assert client.wait_close()[0] == 1001
        assert server.wait() == 0
    deaf = "trap '' INT TERM; echo up; cat >&2; while :; do sleep 1; done"
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import scalesocket\n"
        "scalesocket.STOP_STEPS = ((0, 1000.0), *scalesocket.STOP_STEPS[1:])\n"
        "scalesocket.END_TIMEOUT, scalesocket.ABANDON_TIMEOUT = 1000.0, 60.0\n"
        "sys.exit(scalesocket.main())"
    )
    lasting = [*ALONE, "-c", program, str(copied_alone.parent)]
    options = ("sh", "--", "-c", deaf)
    with serve(*options, command=lasting) as server, RawClient.connect(server) as client:
        assert client.receive_text() == "up"
        server.process.send_signal(number)
        server.wait_log("stopping")
        server.process.send_signal(signal.SIGTERM)
        assert client.wait_close()[0] == 1001
        assert server.wait() == 1
        wait_until(lambda: server.survivors() == [])


def test_a_lone_copy_refuses_a_room_more_than_there_may_be(copied_alone: Path) -> None:
    """net/rooms.py waits for the place of one that is ending, too."""
    command = [*ALONE, str(copied_alone)]
    with serve("--maxrooms", "1", "cat", command=command) as server:
        with RawClient.connect(server, "one") as client:
            with RawClient.connect(server, "other") as refused:
                assert refused.wait_close() == (1013, "no room left: 1 at most")
            client.close()
        server.wait_log("room closed")
        with RawClient.connect(server, "other") as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"


@pytest.mark.parametrize(
    ("options", "kept"),
    [((), 3), (("--backlog", "300"), 2), (("--maxrooms", str(256 * 1024 * 1024 // 100)), 1)],
)
def test_a_lone_copy_tells_newcomers_what_all_have_been_told(
    copied_alone: Path, options: Sequence[str], kept: int
) -> None:
    """The latest that --cache allows, in no more bytes than half of --backlog, or the share."""
    words = ("--serverframe=json", "--cache", "3", *options, "cat")
    told = [f'{{"n":{number}}}' for number in range(6)]
    with serve(*words, command=[*ALONE, str(copied_alone)]) as server:
        with RawClient.connect(server) as first:
            for text in (*told, '{"_to":1,"secret":1}', '{"_except":9,"secret":2}'):
                first.send_text(text)
                assert first.receive_text() == text
            with RawClient.connect(server) as second:
                assert [second.receive_text() for _ in range(kept)] == told[-kept:]
                first.send_text('{"n":6}')
                assert second.receive_text() == '{"n":6}'


def test_a_lone_copy_keeps_what_is_marked_or_says_what_that_needs(copied_alone: Path) -> None:
    command = [*ALONE, str(copied_alone)]
    marked = '{"_cache":true,"n":1}'
    with serve("--serverframe=json", "--cache=tagged:9", "cat", command=command) as server:
        with RawClient.connect(server) as first:
            for text in (marked, '{"n":2}'):
                first.send_text(text)
                assert first.receive_text() == text
            with RawClient.connect(server) as second:
                first.send_text('{"n":3}')
                assert [second.receive_text() for _ in range(2)] == [marked, '{"n":3}']
    done = subprocess.run(
        [*command, "--cache=tagged:9", "cat"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "--cache=tagged needs JSON framing of what TARGET prints" in done.stderr


def test_between_the_past_of_a_lone_copy_and_what_follows_nothing_is_missing(
    copied_alone: Path,
) -> None:
    """Newcomers come while the program prints: each hears numbers without a gap or a repeat."""
    options = ("--cache", "50", "--linger", "60", "sh", "--", "-c")
    numbers = "i=0; while :; do echo $i; i=$((i+1)); done"
    with serve(*options, numbers, command=[*ALONE, str(copied_alone)]) as server:
        for _ in range(100):
            with RawClient.connect(server) as client:
                heard = [int(client.receive_text()) for _ in range(100)]
                assert heard == list(range(heard[0], heard[0] + 100))


def test_a_lone_copy_tells_newcomers_what_a_game_has_broadcast(copied_alone: Path) -> None:
    game = """
from scalesocket import Game

class Chat(Game):
    def on_create(self, room):
        self.room = room

    def on_join(self, client):
        self.room.broadcast(f"{client.id} is here")

    def on_message(self, client, message):
        self.room.broadcast(message)
        self.room.broadcast("others", exclude=[client])
        client.send("you")
"""
    copied_alone.with_name("own.py").write_text(game)
    command = [*ALONE, str(copied_alone)]
    options = ("--cache", "3", "own:Chat")
    with serve(*options, command=command, cwd=copied_alone.parent) as server:
        with RawClient.connect(server) as first:
            assert first.receive_text() == "1 is here"
            first.send_binary(b"\x00\xff")
            assert first.receive_binary() == b"\x00\xff"
            assert first.receive_text() == "you"
            with RawClient.connect(server) as second:
                assert second.receive_text() == "1 is here"
                assert second.receive_binary() == b"\x00\xff"
                assert second.receive_text() == "2 is here"


def test_a_lone_copy_tells_one_too_many_so_and_lets_the_next_one_in(copied_alone: Path) -> None:
    with serve("--maxconns", "1", "cat", command=[*ALONE, str(copied_alone)]) as server:
        with RawClient.connect(server) as client:
            with pytest.raises(HandshakeRefused) as refused:
                RawClient.connect(server)
            assert refused.value.status == 503
            client.close()

        def is_let_in() -> bool:
            try:
                RawClient.connect(server).close()
            except HandshakeRefused:
                return False
            return True

        wait_until(is_let_in)


def test_a_lone_copy_says_what_each_option_needs(copied_alone: Path) -> None:
    """Those of this file work; all others are in net/, and are answered by one line each."""
    places = net_config.PLACES.values()
    elsewhere = [o for place in places for row in place for o in row.names.split()]
    assert len(elsewhere) > 25
    more = ["--frame=gwsocket", "--binary"]
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import scalesocket\n"
        "for option in sys.argv[1:]: assert scalesocket.run([option, 'cat']) == 2"
    )
    done = subprocess.run(
        [*ALONE, "-c", program, str(copied_alone.parent), *elsewhere, *more],
        cwd=copied_alone.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    net = "the folder net/ beside scalesocket.py (try --help)"
    told = [f"scalesocket: there is no option {option} without {net}" for option in elsewhere]
    told += [f"scalesocket: {option} needs {net}" for option in more]
    assert done.stderr.splitlines() == told


def test_a_lone_copy_ends_where_an_option_needs_more(copied_alone: Path) -> None:
    command = [*ALONE, str(copied_alone)]
    done = subprocess.run([*command, "--pcap=x", "cat"], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert b"no option --pcap=x without the folder net/" in done.stderr
    shown = subprocess.run([*command, "--help"], capture_output=True, timeout=PATIENCE)
    assert shown.returncode == 0 and b"--linger" in shown.stdout
    for absent in (b"--pcap", b"Bundled", b"game.py", b" new ", b"/// script"):
        assert absent not in shown.stdout, "it is not there to be used"


@pytest.mark.skipif(os.name != "posix", reason="a process keeps its number when it runs another")
def test_a_lone_copy_says_what_a_passed_socket_needs(copied_alone: Path) -> None:
    program = (
        "import os, sys; os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    done = subprocess.run(
        [*ALONE, "-c", program, *ALONE[1:], str(copied_alone), "cat"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert done.stderr == "scalesocket: LISTEN_FDS needs the folder net/ beside scalesocket.py\n"


def test_a_lone_copy_says_what_a_script_with_options_needs(copied_alone: Path) -> None:
    script = copied_alone.with_name("chat.py")
    script.write_text("# /// script\n# [tool.scalesocket]\n# json = true\n# ///\n")
    done = subprocess.run(
        [*ALONE, str(copied_alone), "chat.py"],
        cwd=copied_alone.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "[tool.scalesocket] in chat.py needs the folder net/" in done.stderr


def import_alone(copied_alone: Path, program: str) -> str:
    """Return what a program prints that has imported the copy."""
    ours = "import sys; sys.path.insert(0, sys.argv[1]); import scalesocket\n"
    shown = subprocess.run(
        [*ALONE, "-c", ours + program, str(copied_alone.parent)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return shown.stdout


def test_a_lone_copy_names_the_file_that_it_cannot_read(copied_alone: Path) -> None:
    program = (
        "try: scalesocket.read_script(scalesocket.Path('gone.py'))\n"
        "except scalesocket.ConfigError as error: print(error)"
    )
    told = import_alone(copied_alone, program)
    assert told == "cannot read gone.py: No such file or directory\n"


def test_importing_it_brings_in_the_standard_library_only(copied_alone: Path) -> None:
    program = "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    ours = {"scalesocket", "__main__"}
    brought = set(import_alone(copied_alone, program).split())
    assert brought - sys.stdlib_module_names - ours == set()


STARTED = frozenset(
    "addresses config descendants direct extensions file_limit idle_options logs origins pages "
    "per_address pings pipes presence rooms signals standard_streams threads".split()
)  # modules of net/ that a program's server has before it listens
WANTED_LATER = frozenset(
    "ctypes datetime difflib email encodings.idna hashlib html http mimetypes pty random shlex ssl "
    "stringprep tomllib tty unicodedata".split()
)  # modules of Python that it does not have by then


def loaded_by(program: str, *words: str) -> set[str]:
    """Return the names of the modules that a server has loaded when a program prints them."""
    ours = "import sys; sys.path.insert(0, sys.argv.pop(1)); import scalesocket; from scalesocket "
    command = [*ALONE, "-c", f"{ours}import Server, main\n{program}", str(ROOT)]
    words = ("--addr", "127.0.0.1:0", *words)
    shown = subprocess.run(
        [*command, *words], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    return set(shown.stdout.split())


@pytest.mark.parametrize("kind", ["command", "script", "script with options"])
def test_a_server_of_a_program_starts_without_what_only_others_need(
    tmp_path: Path, kind: str
) -> None:
    """Each module is read, and at first compiled, before anybody can come in."""
    allowed, target = STARTED | {"examples"}, "cat"
    if kind != "command":
        block = "# /// script\n# [tool.scalesocket]\n# json = true\n# ///\n"
        (tmp_path / "own.py").write_text(f"{block if 'options' in kind else ''}print('hello')\n")
        allowed, target = STARTED | {"programs", "script_options"}, str(tmp_path / "own.py")
    loaded = loaded_by("Server.run = lambda _: print(*sys.modules); main()", target)
    ours = {name for name in loaded if name.startswith("scalesocket.net.")}
    assert {name.removeprefix("scalesocket.net.") for name in ours} == allowed
    read = {"tomllib", "datetime"} if "options" in kind else set()  # TOML has dates
    assert loaded & WANTED_LATER == read


def test_a_server_loads_what_its_first_client_needs_before_that_one_comes() -> None:
    """It would have to wait for it; and once files run out, no more modules can be read."""
    wanted = "scalesocket.net.linebuffer scalesocket.net.files hashlib"
    program = (
        "import time\n"
        f"wanted, ends = set({wanted!r}.split()), time.monotonic() + {PATIENCE}\n"
        "def wait(*_):\n"
        "    while not wanted <= set(sys.modules) and time.monotonic() < ends:\n"
        "        time.sleep(0.01)\n"
        "    print(*sys.modules)\n"
        "Server._wait_for_stop = wait; main()"
    )
    assert loaded_by(program, "cat") >= set(wanted.split())


def test_importing_it_needs_no_module_that_only_posix_has(copied_alone: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "for name in ('fcntl', 'pty', 'termios', 'tty', 'resource', 'pwd', 'grp'):\n"
        "    sys.modules[name] = None\n"
        "import scalesocket\n"
    )
    subprocess.run([*ALONE, "-c", program, str(copied_alone.parent)], check=True, timeout=PATIENCE)


def test_the_top_level_holds_what_the_design_names() -> None:
    found = {name.partition("/")[0] for name in tracked_files()}
    assert found - TOP_LEVEL == set()


def test_no_file_names_somebody_s_home() -> None:
    guilty = {}
    for name in tracked_files():
        found = HOME_PATH.search((ROOT / name).read_bytes())
        if found:
            guilty[name] = found[0]
    assert guilty == {}


def test_the_requirements_of_the_tests_are_pinned() -> None:
    lines = (ROOT / "tests" / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    pinned = r'[A-Za-z0-9_.-]+==[0-9.]+(; python_version < "[0-9.]+")?( +#.*)?'
    assert wanted and all(re.fullmatch(pinned, line) for line in wanted)


def test_the_server_depends_on_nothing() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project.get("dependencies", []) == []
