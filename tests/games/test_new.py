"""`scalesocket new`: the folder runs at once, its tests pass, and its page is as good as ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scalesocket.net.new import COMMAND, words_for

from scalesocket import ConfigError
from tests import browser as in_browser
from tests.browser import wait_for
from tests.pages.test_accessible import DESK_BY_DAY, PHONE_BY_NIGHT, complaints
from tests.support import PATIENCE, SCRIPT, RawClient, http_request, run_cli, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

browser = in_browser.browser

KINDS = ["game", "program"]


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A new folder of each kind."""
    option = ["--program"] if request.param == "program" else []
    done = run_cli("new", "star-hunt", *option, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"cd star-hunt\n  python3 {SCRIPT} star_hunt.py\n" in done.stdout
    yield tmp_path / "star-hunt"


def test_it_is_all_there_by_its_own_name(made: Path) -> None:
    files = {path.name for path in made.rglob("*") if path.is_file()}
    rules = {"star_hunt_rules.py"} & files
    assert files == {"star_hunt.py", "test_star_hunt.py", "README.md", "index.html", *rules}
    text = "".join(path.read_text("utf-8") for path in made.rglob("*.*") if path.is_file())
    assert "mygame" not in text.lower() and "my game" not in text.lower()
    assert "# Star hunt\n" in text and "<h1>Star hunt</h1>" in text
    assert f"    python3 {SCRIPT} star_hunt.py\n" in (made / "README.md").read_text()


@pytest.mark.slow
def test_its_tests_pass_with_unittest_and_pytest_and_can_fail(made: Path) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", *command]
        return subprocess.run(words, cwd=made, capture_output=True, text=True, timeout=PATIENCE)

    assert run("unittest").returncode == 0
    assert run("pytest", "-q", "-p", "no:cacheprovider").returncode == 0
    (source,) = [path for path in made.glob("star_hunt*.py") if "REACH = " in path.read_text()]
    source.write_text(source.read_text().replace("REACH = 0.04", "REACH = -1"))
    assert "who_reaches_the_star" in run("unittest").stderr


def await_state(client: RawClient) -> dict[str, Any]:
    while True:
        message: Any = client.receive_json()
        if message["t"] == "state":
            return dict(message)


@pytest.mark.slow
def test_it_runs_at_once_and_can_be_won(made: Path) -> None:
    with serve("star_hunt.py", cwd=made) as server:
        assert b"<h1>Star hunt</h1>" in http_request(server, path="/").body
        assert http_request(server, path="/shared/connection.js").status == 200
        with RawClient.connect(server, "den") as ann, RawClient.connect(server, "den") as bob:
            welcome: Any = ann.receive_json()
            assert welcome["t"] == "welcome"
            ann.send_text('{"t":"name","name":" Ann "}')
            for useless in ('{"t":"go","x":9,"y":0}', '{"t":"go"}', "[]", "{", '{"t":"Leave!"}'):
                bob.send_text(useless)
            score = 0
            while not score:
                state = await_state(ann)
                (found,) = [player for player in state["players"] if player["id"] == welcome["you"]]
                score = found["score"]
                ann.send_json({"t": "go", **state["star"]})
            assert found["name"] == "Ann"
            while not any(player["score"] for player in await_state(bob)["players"]):
                pass
            bob.close()
            while len(await_state(ann)["players"]) > 1:
                ann.send_json({"t": "go", "x": 0.5, "y": 0.5})


@pytest.mark.browser
@pytest.mark.slow
def test_its_page_is_played_with_and_axe_finds_nothing(made: Path, browser: Browser) -> None:
    options = DESK_BY_DAY if (made / "star_hunt_rules.py").exists() else PHONE_BY_NIGHT
    with serve("star_hunt.py", cwd=made) as server:
        context = browser.new_context(**options)
        page = context.new_page()
        page.goto(server.http("/?room=den&name=Ann"))
        page.get_by_text("Ann: 0").wait_for()
        page.locator(".me", has_text="Ann").wait_for()
        assert complaints(page) == []
        page.locator("#field").click(position={"x": 100, "y": 50})
        width = page.locator("#field").bounding_box()["width"]  # type: ignore[index]
        goal = 100 * 100 / width
        near = f"Math.abs(parseFloat(document.querySelector('.me').style.left) - {goal}) < 1"
        for _ in range(20):  # the program's players hop, and do not walk on
            page.locator("#field").click(position={"x": 100, "y": 50})
        wait_for(page, near)
        page.keyboard.press("ArrowRight")
        wait_for(page, f"parseFloat(document.querySelector('.me').style.left) > {goal} + 5")
        scrolls = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not page.evaluate(scrolls)
        server.kill()
        page.get_by_text("the server cannot be reached, again soon").wait_for()
        context.close()


@pytest.mark.parametrize(
    ("name", "module", "class_name", "title"),
    [
        ("mygame", "mygame", "Mygame", "Mygame"),
        ("star-hunt", "star_hunt", "StarHunt", "Star hunt"),
        ("MyGame", "mygame", "MyGame", "My Game"),
        ("tag_2", "tag_2", "Tag2", "Tag 2"),
        ("game", "game", "Game", "Game"),
        ("contest", "contest", "Contest", "Contest"),
    ],
)
def test_a_name_is_one_of_a_module_a_class_and_a_page(
    name: str, module: str, class_name: str, title: str
) -> None:
    words = words_for(name)
    found = (words["mygame"], words["MyGame"], words["My game"])
    assert found == (module, class_name, title)
    assert words[COMMAND].endswith(f" {module}.py")


def test_what_runs_the_tests_of_a_game_is_no_name_for_it() -> None:
    """Each package that pytest loads is one that a game of its name would be in the place of."""
    script = "import sys, pytest; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    assert "pytest" in loaded
    for name in loaded:
        if name[0] != "_" and name not in sys.stdlib_module_names:
            with pytest.raises(ConfigError, match="no name for a game"):
                words_for(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "9lives",
        "-",
        "a b",
        "../a",
        "a/b",
        "a.py",
        "é",
        "x" * 41,
        "json",
        "Random",
        "none",
        "IF",
        "class",
        "asyncio",
        "scalesocket",
        "pytest",
        "Redis",
        "test",
        "Testament",
        "hunt-test",
        "conftest",
        "rule-error",
        "ValueError",
    ],
)
def test_what_is_no_name_is_named_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    """The folder `pytest` had tests that nobody could run; that of `test` had none that passed."""
    with pytest.raises(ConfigError, match="no name for a game"):
        words_for(name)
    if name in ("../a", "json", "pytest", "test"):
        done = run_cli("new", name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert repr(name) in done.stderr and len(done.stderr.splitlines()) == 1
        assert not any(tmp_path.iterdir())


def test_its_help_is_of_new_alone(tmp_path: Path) -> None:
    """It was that of the server, in which --program does not stand."""
    done = run_cli("new", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"usage: python3 \S*scalesocket\.py new \[--program\] NAME\n", done.stdout)
    assert "reads lines and prints lines" in done.stdout and "--addr" not in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prog", "mygame"], "new` has no option --prog; did you mean --program?"),
        (["mygame", "--addr=:1"], "new` has no option --addr=:1"),
        (["my", "game"], "'my' is the NAME; 'game' is one more"),
    ],
)
def test_what_new_does_not_take_is_said_in_a_line(
    words: list[str], said: str, tmp_path: Path
) -> None:
    done = run_cli("new", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{said} (try" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mygame").mkdir()
    (tmp_path / "other").write_text("mine")
    for name in ("mygame", "other"):
        done = run_cli("new", name, cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert f"{name} is there already" in done.stderr
    assert not any((tmp_path / "mygame").iterdir())
    assert (tmp_path / "other").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder where nobody may write")
def test_where_nothing_can_be_written_that_is_said_in_a_line() -> None:
    done = run_cli("new", "mygame", cwd="/proc")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "cannot write mygame" in done.stderr


def test_the_command_is_the_one_that_was_used(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    command = [sys.executable, os.path.relpath(SCRIPT, tmp_path / "here"), "new", "mygame"]
    done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True)
    written = f"python3 {os.path.relpath(SCRIPT, tmp_path / 'here' / 'mygame')} mygame.py"
    assert done.stdout.splitlines()[-1] == f"  {written}"
    assert f"    {written}\n" in (tmp_path / "here" / "mygame" / "README.md").read_text()


def test_a_lone_copy_says_what_it_needs(tmp_path: Path) -> None:
    shutil.copy(SCRIPT, tmp_path)
    command = [sys.executable, "scalesocket.py", "new", "mygame"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "scalesocket new needs the folder net/ beside scalesocket.py" in done.stderr
