"""Everything is imported as `scalesocket.…`: the `net`, `game`, `client` of a user stay theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PATIENCE, ROOT, RawClient, serve

GAME = """
import client, game, net
from scalesocket import Game

class Mine(Game):
    def on_message(self, who, message):
        who.send(f"{net.OWNER} {game.OWNER} {client.OWNER}")
"""


def make_packages(folder: Path) -> None:
    """Write packages of the user's own that have the names of our folders."""
    for name in ("net", "game", "client"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("OWNER = 'mine'\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--pcap", "play.pcapng"),
        ("--trace",),
        ("--console",),
        ("--api", "--peers", "127.0.0.1:1"),
        ("--workers", "2"),
    ],
    ids=lambda options: options[0] if options else "none",
)
def test_a_users_own_packages_do_not_meet_ours(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Seen: with a folder `net/` beside the game, --pcap ended in a traceback (case 21)."""
    make_packages(tmp_path)
    (tmp_path / "mine.py").write_text(GAME)
    served = serve(*options, "mine:Mine", cwd=tmp_path)
    with served as server, RawClient.connect(server) as client:
        client.send_text("whose?")
        assert client.receive_text() == "mine mine mine"


def test_a_bundled_game_does_not_take_a_users_package_for_its_own(tmp_path: Path) -> None:
    make_packages(tmp_path)
    with serve("snake", cwd=tmp_path) as server, RawClient.connect(server):
        pass


@pytest.mark.parametrize("name", ["client.websocket", "scalesocket.client.websocket"])
def test_a_client_runs_under_either_name(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", name, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage" in done.stdout
