"""The sandbox in a terminal: what it knows, what it draws, and the keys."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalesocket.client import sandbox
from scalesocket.client.reconnecting import Received
from scalesocket.client.sandbox import SAID_TIME, SandboxView, World
from scalesocket.client.terminal import Canvas, Style, WrongGame
from scalesocket.game.sandbox import item_rows
from scalesocket.game.sandbox_items import AXE, HAMMER, RESOURCES, WALL
from scalesocket.net import sandbox_packets as packets

from tests.games.test_sandbox import Listener, Seeded, StandInRoom
from tests.pages import test_terminal_clients as in_terminal
from tests.pages.test_terminal_clients import Terminal, client, start_app
from tests.support import ROOT, ServerProcess, serve

open_terminal = in_terminal.open_terminal

INIT = packets.Init(6000, 1000, 20, 35, 300, 1.2, RESOURCES, item_rows())
ANN, BOB = 5, 9


def info(sid: int, name: str, x: int, y: int) -> packets.PlayerInfo:
    return packets.PlayerInfo(sid, sid, name, x, y, 0.0, 100, 100, 35, 0)


def row(sid: int, x: int, y: int, dir: float = 0.0, build: int | None = None) -> packets.PlayerRow:
    return packets.PlayerRow(sid, x, y, dir, build, HAMMER.id, 0, None, 0, 0, 0, 0, 0)


def make_world(*more: packets.Packet) -> World:
    """Return a world in which ann stands at (3000, 3000), with bob and a tree beside her."""
    world = World()
    for packet in (
        packets.Hello(1),
        INIT,
        packets.Leaderboard((packets.ScoreRow(BOB, "bob", 70), packets.ScoreRow(ANN, "ann", 20))),
        packets.Spawned(ANN),
        packets.PlayerAdd(info(ANN, "ann", 3000, 3000), True),
        packets.ResourceCount("wood", 20, False),
        packets.Items((HAMMER.id,), True),
        packets.Items((4, WALL.id), False),
        packets.PlayerAdd(info(BOB, "bob", 3300, 3000), False),
        packets.Objects((packets.ObjectRow(20, 2700, 3000, 0.0, 60, 0, None, 0),)),
        packets.Players((row(ANN, 3000, 3000), row(BOB, 3300, 3000, math.pi))),
        *more,
    ):
        world.apply(packet, 0.0)
    return world


def shown(world: World, columns: int = 80, rows: int = 23, **options: Any) -> list[str]:
    canvas = Canvas(columns, rows, unicode=options.pop("unicode", True))
    sandbox.draw(world, canvas, options.pop("now", 0.0), options.pop("typing", None))
    return canvas.text()


# ==== What is known and drawn ==============================================


def test_one_sees_oneself_in_the_middle_and_who_and_what_is_near() -> None:
    lines = shown(make_world())
    assert lines[0].startswith(" ann       ██████████ 100  wood 20  age 1")
    assert lines[11][30] == "@" and lines[11][32] == "→"
    assert lines[11][40] == "@" and lines[11][38] == "←"
    assert lines[11][20] == "♣"
    assert "ann" in lines[10] and "bob" in lines[10]
    assert lines[2].endswith("bob            70") and lines[3].endswith("ann            20")
    assert lines[22] == " 1 hammer  2 apple(10f)  3 wall(10w)"
    narrow = shown(make_world(), columns=35)
    assert narrow[0] == " ann       ██████████ 100  wood 20"
    assert narrow[22] == " 1 hammer  2 apple(10f)"


def test_what_is_in_hand_is_marked() -> None:
    canvas = Canvas(80, 23)
    sandbox.draw(make_world(packets.Players((row(ANN, 3000, 3000, 0.0, WALL.id),))), canvas, 0.0)
    marked = [text for text, style in canvas.lines()[22] if style is Style.CURSOR]
    assert marked == ["3 wall(10w)"]


def test_who_is_hurt_has_a_number_and_a_bar() -> None:
    lines = shown(make_world(packets.Health(BOB, 40), packets.Health(ANN, 31)))
    assert "bob 40" in lines[10]
    assert lines[0].startswith(" ann       ████░░░░░░ 31 ")


def test_what_is_gone_is_drawn_no_more() -> None:
    wall = packets.ObjectRow(30, 3000, 3200, 0.0, 50, None, WALL.id, BOB)
    assert "█" in "".join(shown(make_world(packets.Objects((wall,))))[1:])
    for gone in (packets.ObjectRemove(30), packets.ObjectsRemove(BOB)):
        lines = shown(make_world(packets.Objects((wall,)), gone))
        assert "█" not in "".join(lines[1:])
        assert "♣" in "".join(lines)
    lines = shown(make_world(packets.PlayerRemove(BOB), packets.Players((row(ANN, 3000, 3000),))))
    assert "bob" not in "".join(line[:60] for line in lines)


def test_the_end_of_the_world_can_be_seen() -> None:
    lines = shown(make_world(packets.Players((row(ANN, 20, 3000),))))
    assert lines[11].startswith("░" * 29) and not lines[11].startswith("░" * 31)


def test_after_death_one_stays_and_is_told_how_to_go_on() -> None:
    lines = shown(make_world(packets.Death(), packets.Players((row(BOB, 3300, 3000),))))
    assert "watching" in lines[0]
    text = "\n".join(lines)
    assert "You died." in text and "Press Enter to play." in text
    assert "1 hammer" not in text


def test_the_reason_why_one_is_closed_is_shown() -> None:
    assert shown(make_world(packets.Disconnect("too many packets")))[0] == " too many packets"


def test_what_was_said_is_shown_for_a_while_and_the_latest_last() -> None:
    world = make_world(packets.Said(BOB, "hello"), packets.Said(0, "the world is full"))
    lines = shown(world)
    assert " bob: hello" in lines[20] and " the world is full " in lines[21]
    assert "hello" not in "\n".join(shown(world, now=SAID_TIME + 1))
    assert " say: yes_" in shown(world, typing="yes")[21]


@pytest.mark.parametrize("letter", ["w", "日"])
def test_a_long_line_is_seen_to_its_end_while_it_is_written_and_when_it_is_said(
    letter: str,
) -> None:
    """What there was no room for, beside the leaderboard or in a small terminal, was cut off."""
    text = " ".join([letter * 9] * 5 + [f"{letter * 6}end"])
    assert len(text) < packets.MAX_CHAT
    for columns in (30, 80, 120):
        for world, typing in (make_world(packets.Said(BOB, text)), None), (make_world(), text):
            written = "".join(shown(world, columns, typing=typing))
            assert written.count(letter) >= 51 and f"{letter * 6}end" in written


def test_the_end_of_the_server_is_said_beforehand() -> None:
    lines = shown(make_world(packets.ShutdownNotice(30)))
    assert " The server ends in 30 s at the latest. " in lines[21]


def test_a_narrow_terminal_shows_the_field_and_no_leaderboard() -> None:
    lines = shown(make_world(), 40, 12)
    assert "Leaderboard" not in "\n".join(lines)
    assert lines[6][20] == "@"
    assert shown(make_world(), 20, 12)[0].startswith("Too small; 30x10")
    assert "Waiting" in "\n".join(shown(World()))


angles = st.floats(-2 * math.pi, 2 * math.pi)
places = st.tuples(st.integers(0, 6000), st.integers(0, 6000))


@pytest.mark.slow
@given(
    st.lists(st.tuples(places, angles), max_size=5),
    st.lists(st.tuples(places, st.integers(0, 5) | st.none(), st.integers(0, 9) | st.none())),
    st.integers(0, 140),
    st.integers(0, 45),
    st.booleans(),
)
def test_any_world_fits_any_terminal(
    people: list[Any], things: list[Any], columns: int, rows: int, unicode: bool
) -> None:
    rows_of = tuple(row(sid, *place, dir) for sid, (place, dir) in enumerate(people, ANN))
    objects = tuple(
        packets.ObjectRow(50 + n, *place, 0.0, 60, resource, kind, 0)
        for n, (place, resource, kind) in enumerate(things)
    )
    world = make_world(packets.Objects(objects), packets.Players(rows_of))
    canvas = Canvas(columns, rows, unicode=unicode)
    sandbox.draw(world, canvas, 0.0, "typing")
    assert len(canvas.lines()) == rows
    assert unicode or all(line.isascii() for line in canvas.text())


def test_it_understands_all_that_the_game_sends() -> None:
    game, someone, view = Seeded(), Listener(1), SandboxView("ann")
    game.on_create(cast(Any, StandInRoom()))
    game.on_join(cast(Any, someone))
    game.on_message(cast(Any, someone), view.encode(view._spawn()))
    for _ in range(30):
        game.on_tick(0.05)
    for packet in someone.inbox:
        view.receive(view.decode(packets.encode(packet)), 0.0)
    assert view.world.own is not None and view.world.objects
    assert view.world.bar[0] == HAMMER.id
    assert "@" in "\n".join(shown(view.world))


# ==== Keys =================================================================


def playing(*more: packets.Packet) -> SandboxView:
    view = SandboxView("ann")
    view.world = make_world(*more)
    return view


def test_it_spawns_as_soon_as_it_knows_the_world() -> None:
    view = SandboxView("a name that is far too long")
    assert view.opened() is None
    assert view.receive(packets.Hello(3), 0.0) is None
    answer = view.receive(INIT, 0.0)
    assert isinstance(answer, packets.Spawn) and answer.profile.name == "a name that is f"
    assert packets.decode_from_client(view.encode(answer)) == answer


def test_it_spawns_by_a_name_that_is_no_text() -> None:
    """A byte of the command line that is no UTF-8 ended it: the room played something else."""
    view = SandboxView("ann\udcff")
    answer = view.receive(INIT, 0.0)
    assert packets.decode_from_client(view.encode(answer)) == answer


@pytest.mark.parametrize(
    ("key", "angle"), [("right", 0), ("page down", 45), ("down", 90), ("left", 180), ("up", -90)]
)
def test_a_direction_is_walked_and_looked_at(key: str, angle: float) -> None:
    move, aim = playing().press(key)
    assert math.degrees(move.angle) == math.degrees(aim.angle) == angle
    assert packets.decode_from_client(packets.encode(move)) == move


def test_other_keys_stop_strike_choose_and_are_passed_over() -> None:
    view = playing()
    assert view.press("x") == [packets.StopMove()]
    assert view.press(" ") == [packets.Attack(True, None), packets.Attack(False, None)]
    assert view.press("0") == [packets.AutoAttack()]
    assert view.press("3") == [packets.SelectItem(WALL.id)]
    assert view.press("9") == view.press("+") == view.press("r") == []
    assert playing(packets.Upgrades(1, 2)).press("+") == [packets.Upgrade(AXE.id)]
    assert "+ axe" in shown(make_world(packets.Upgrades(1, 2)))[22]


def test_the_key_of_the_weapon_in_hand_takes_the_next_one() -> None:
    view = playing(packets.Items((HAMMER.id, AXE.id), True))
    assert view.press("1") == [packets.SelectItem(AXE.id)]
    building = packets.Players((row(ANN, 3000, 3000, 0.0, WALL.id),))
    assert playing(building).press("1") == [packets.SelectItem(HAMMER.id)], "the wall is put away"


def typed(view: SandboxView, text: str) -> list[Any]:
    return [packet for key in text for packet in view.press(key)]


def drawn(view: SandboxView, columns: int = 80, rows: int = 23) -> str:
    canvas = Canvas(columns, rows)
    view.draw(canvas, 0.0)
    return "\n".join(canvas.text())


def test_who_begins_to_talk_without_a_key_does_nothing() -> None:
    """`hello` struck on and on, and `quick` quit."""
    view = playing()
    assert typed(view, "hello") == []
    assert "Enter talks, ? shows the keys." in drawn(view)
    assert typed(view, "quick gluon") == [packets.Attack(True, None), packets.Attack(False, None)]
    assert not view.done and view.typing is None


def test_q_quits_if_it_is_pressed_twice() -> None:
    view = playing()
    view.press("q")
    assert "Once more q, and you quit." in drawn(view)
    view.press("left")
    view.press("q")
    assert not view.done
    view.press("q")
    assert view.done


@pytest.mark.parametrize("size", [(80, 23), (40, 14)])
def test_the_keys_are_shown_at_first_and_behind_a_question_mark(size: tuple[int, int]) -> None:
    view = playing()
    assert "Enter or t    talk" in drawn(view, *size)
    assert "q q           quit" in drawn(view, *size)
    view.press("left")
    assert "quit" not in drawn(view, *size).splitlines()[-2]
    assert "Enter or t" not in drawn(view, *size)
    view.press("?")
    assert "Enter or t    talk" in drawn(view, *size)
    view.press("?")
    assert "Enter or t" not in drawn(view, *size)


def test_page_and_terminal_name_the_same_keys() -> None:
    page = (ROOT / "client/web/sandbox/index.html").read_text(encoding="utf-8")
    keys = re.search(r'<dl class="by-keys">(.*?)</dl>', page, re.DOTALL)
    assert keys is not None
    of_page = {word.lower() for word in re.findall(r"<kbd>(.*?)</kbd>", keys[1])}
    listed = " ".join(what.lower() for what, _ in sandbox.HELP)
    assert all(key.replace(" ", "") in listed for key in of_page), of_page


def test_the_dead_live_again_by_a_key_and_do_nothing_else() -> None:
    view = playing(packets.Death())
    assert view.press("left") == []
    assert [type(packet) for packet in view.press("enter")] == [packets.Spawn]
    assert [type(packet) for packet in view.press(" ")] == [packets.Spawn]


@pytest.mark.parametrize("talk", ["t", "enter"])
def test_a_line_is_written_mended_sent_or_given_up(talk: str) -> None:
    view = playing()
    view.press(talk)
    for key in ("h", "q", "backspace", "i", " ", "日", "up"):
        assert view.press(key) == []
    assert view.typing == "hi 日"
    assert view.press("enter") == [packets.Chat("hi 日")]
    assert view.typing is None
    for keys in (["t", "x", "escape"], ["t", " ", "enter"]):
        assert [view.press(key) for key in keys][-1] == []
        assert view.typing is None
    view.press("t")
    for _ in range(100):
        view.press("y")
    assert view.press("enter") == [packets.Chat("y" * packets.MAX_CHAT)]


@pytest.mark.parametrize("wrong", ["{}", b"", b"\x93\x01\x02\x03"])
def test_a_room_that_plays_something_else_is_noticed(wrong: str | bytes) -> None:
    app, _ = start_app(SandboxView("ann"))
    with pytest.raises(WrongGame):
        app.handle(Received(wrong))


def test_several_packets_for_one_key_are_sent_one_by_one() -> None:
    app, link = start_app(playing())
    app._send(app.game.press(" "))
    assert link.sent == [packets.Attack(True, None), packets.Attack(False, None)]


# ==== In a real terminal ===================================================


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve("sandbox") as running:
        yield running


def builds_a_wall(screen: Terminal) -> bool:
    """Build where the player looks; if a bush or a rock stands there, look elsewhere."""
    for key in ("Space", "Left", "Up", "Right", "Down"):
        if key != "Space":
            screen.keys(key, "x")
        screen.keys("Space")
        with contextlib.suppress(AssertionError):
            screen.wait_for("wood 10", timeout=2)
            return True
    return False


@pytest.mark.slow
def test_one_walks_builds_and_talks_in_a_terminal(
    open_terminal: Callable[[], Terminal], server: ServerProcess
) -> None:
    screen = open_terminal()
    screen.start(*client("sandbox", server, "ann", "field"))
    screen.wait_for(r"^ ann .*100 .*wood 20")
    for key, arrow in (("Down", "↓"), ("a", "←"), ("W", "↑"), ("Right", "→"), ("NPage", "↘")):
        screen.keys(key)
        screen.wait_for(arrow)
    screen.keys("x", "3")
    assert builds_a_wall(screen), screen.text()
    screen.wait_for("██")  # the wall, behind the bar of health
    screen.keys("Enter")
    screen.type("quiet here")
    screen.wait_for("say: quiet here_")
    screen.keys("Enter")
    screen.wait_for("ann: quiet here")
    screen.keys("q")
    screen.wait_for("Once more q")
    screen.keys("q")
    screen.wait_for("^exit 0$")


@pytest.mark.slow
def test_a_small_terminal_without_colours_and_utf8_is_enough(
    open_terminal: Callable[[], Terminal], server: ServerProcess
) -> None:
    screen = open_terminal()
    command = client("sandbox", server, "ann", "plain")
    screen.start(*command, size=(40, 12), TERM="vt100", LC_ALL="C")
    screen.wait_for(r"^ ann +########## 100")
    screen.wait_for("Enter or t +talk")
    screen.keys("Escape")
    screen.wait_for("@.-")  # whatever grows there
    screen.resize(20, 6)
    screen.wait_for("Too small; 30x10")


@pytest.mark.slow
def test_a_room_that_plays_snake_is_said_to_do_so(open_terminal: Callable[[], Terminal]) -> None:
    screen = open_terminal()
    with serve("snake") as other:
        screen.start(*client("sandbox", other, "ann", "den"))
        screen.wait_for("does not play sandbox")
        screen.wait_for("^exit 1$")
