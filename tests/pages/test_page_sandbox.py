"""The page of the sandbox, played in a real browser against the real server."""

from __future__ import annotations

import base64
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgpack
import pytest
from scalesocket.net import sandbox_packets as packets
from scalesocket.net.sandbox_packets import PACKETS, Direction, PacketType, Table

from tests import browser as in_browser
from tests.browser import (
    DESKTOP,
    HIDING,
    MARKUP,
    NARROWEST,
    PAGES,
    PATIENCE,
    PHONE,
    PHONE_ON_ITS_SIDE,
    SPY_ON_ORDER,
    SPY_ON_TEXTS,
    OpenTab,
    expect,
    note,
    overlapping,
    sticking_out,
    wait_for,
    wait_for_note,
)
from tests.support import ServerProcess, free_port, serve, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

browser, open_tab = in_browser.browser, in_browser.open_tab

HAN = range(0x4E00, 0x4E00 + 60)  # letters of Chinese, which has no spaces

ISLAND = "/sandbox/?room=island"
HALF = {"width": 640, "height": 800}  # of a screen
ZOOMED = {"width": 640, "height": 400}  # a desktop's page at 200 %
LOW = {"width": 1000, "height": 400}
SMALL = {"width": 800, "height": 600}  # two pages that are drawn all the time are work
SMALL_ISLAND = f"""\
# /// script
# requires-python = ">=3.11"
#
# [tool.scalesocket]
# game = "SmallIsland"
# staticdir = "{PAGES}"
# api = true
# ///
from scalesocket.game.sandbox import Sandbox
from scalesocket.game.sandbox_rules import World
from scalesocket.game.sandbox_items import WOOD, Growth


class SmallIsland(Sandbox):
    \"\"\"Everybody is in view of everybody, and there is one tree.\"\"\"

    def make_world(self) -> World:
        return World(1, size=900, scenery=(Growth(WOOD, 1, 60, 60),))
"""

# Notes the code of each packet that the page sends.
SPY = """async () => {
    const { decode } = await import("/sandbox/msgpack.js");
    const send = WebSocket.prototype.send;
    window.sent = [];
    WebSocket.prototype.send = function (data) {
        sent.push(decode(data)[0]);
        send.call(this, data);
    };
}"""


def code_of(packet: type[packets.Packet]) -> str:
    """Return the code of a packet that goes to the server."""
    kinds = [k for k in PACKETS if k.cls is packet and k.direction is Direction.TO_SERVER]
    return kinds[0].code


# Walks by pressing and letting go of keys, as a person does, until the player's centre is within
# `near` units of a place, and looks at the place all the way. What stands in the way is walked
# around: sideways for a while, each time to the other side, then straight on for a while.
WALK = """([x, y, near]) => new Promise((resolve) => {
    const held = new Set();
    const press = (code, down) => {
        if (held.has(code) === down) return;
        if (down) held.add(code);
        else held.delete(code);
        dispatchEvent(new KeyboardEvent(down ? "keydown" : "keyup", { code }));
    };
    const stage = document.getElementById("stage");
    let [last, steps, detour, side, ahead] = [{ x: 0, y: 0 }, 0, 0, 1, [0, 0]];
    const step = () => {
        const me = game.players[game.me];
        if (!me) return;
        let [dx, dy] = [x - me.x, y - me.y];
        const there = Math.hypot(dx, dy) <= near;
        const moved = Math.hypot(me.x - last.x, me.y - last.y);
        steps += 1;
        if (steps % 20 === 0) last = { x: me.x, y: me.y };
        if (steps % 20 === 0 && detour <= 0 && moved < 20) {
            [detour, side] = [50, -side];
            ahead = Math.abs(dx) > Math.abs(dy) ? [Math.sign(dx) * 99, 0] : [0, Math.sign(dy) * 99];
        }
        detour -= 1;
        if (detour > 30) [dx, dy] = [-side * ahead[1], side * ahead[0]];
        else if (detour > 0) [dx, dy] = ahead;
        press("KeyD", !there && dx > 12);
        press("KeyA", !there && dx < -12);
        press("KeyS", !there && dy > 12);
        press("KeyW", !there && dy < -12);
        const box = stage.getBoundingClientRect();
        const at = game.toPage({ x, y });
        stage.dispatchEvent(new PointerEvent("pointermove", {
            bubbles: true, pointerType: "mouse", clientX: box.left + at.x, clientY: box.top + at.y,
        }));
        if (!there) return;
        clearInterval(timer);
        resolve();
    };
    const timer = setInterval(step, 30);
})"""
ME = "game.players[game.me]"


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """Serve the sandbox as the README says, or a small island for who must meet."""
    game = "sandbox"
    if "island" in request.node.name:
        (tmp_path / "island.py").write_text(SMALL_ISLAND)
        game = str(tmp_path / "island.py")
    with serve(game) as running:
        yield running


def spawn(page: Page, name: str) -> None:
    page.locator("#join:not([hidden])").wait_for()
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Play").click()
    wait_for(page, f"{ME} !== undefined")


def two_players(open_tab: OpenTab) -> tuple[Page, Page]:
    """Return the tabs of Ann and Bob, who see each other."""
    ann, bob = open_tab(ISLAND, viewport=SMALL), open_tab(ISLAND, viewport=SMALL)
    spawn(ann, "Ann")
    spawn(bob, "Bob")
    for page in (ann, bob):
        wait_for(page, "Object.keys(game.players).length === 2")
    return ann, bob


def me(page: Page) -> int:
    return cast(int, page.evaluate("game.me"))


def own(page: Page) -> dict[str, Any]:
    return cast("dict[str, Any]", page.evaluate(ME))


def seen(sid: int) -> str:
    """Return an expression: a player as any page sees it."""
    return f"game.players[{sid}]"


# Looks at a place: the picture of a busy machine lags behind the player who walks.
LOOK = """([x, y]) => {
    const stage = document.getElementById("stage");
    const box = stage.getBoundingClientRect();
    const at = game.toPage({ x, y });
    stage.dispatchEvent(new PointerEvent("pointermove", {
        bubbles: true, pointerType: "mouse", clientX: box.left + at.x, clientY: box.top + at.y,
    }));
}"""


def look_at(page: Page, x: float, y: float) -> None:
    """Look at a place until the server has heard of it."""
    angle = f"Math.atan2({y} - {ME}.y, {x} - {ME}.x)"

    def looks_at_it() -> bool:
        page.evaluate(LOOK, [x, y])
        return bool(page.evaluate(f"Math.cos({ME}.dir - {angle}) > 0.96"))

    wait_until(looks_at_it)


def walk_up_to(page: Page, x: float, y: float, near: float) -> None:
    """Walk up to a place and look at it. Who hears late where it is may walk past."""

    def is_there() -> bool:
        page.evaluate(WALK, [x, y, near])
        look_at(page, x, y)
        return bool(page.evaluate(f"Math.hypot({x} - {ME}.x, {y} - {ME}.y)") <= near + 5)

    wait_until(is_there)


def walk_to_tree(page: Page) -> None:
    tree = page.evaluate("game.objects.find(({ resource }) => resource === 0)")
    walk_up_to(page, tree["x"], tree["y"], tree["scale"] + 65)


# ==== 1. Bytes =============================================================


def in_page(page: Page, body: str, argument: object) -> Any:
    """Run JavaScript that has `encode`, `decode`, `codec`, `argument` and base64 both ways."""
    return page.evaluate(
        f"""async (argument) => {{
            const {{ encode, decode }} = await import("/sandbox/msgpack.js");
            const {{ codec }} = await import("/sandbox/packets.js");
            const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const text = (bytes) => btoa(String.fromCharCode(...bytes));
            {body}
        }}""",
        argument,
    )


def as_text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def some_values() -> list[object]:
    """Return what is at the limits of each head byte, and nested values by chance."""
    chance = random.Random(4)
    edges = [2**n + d for n in (0, 5, 7, 8, 15, 16, 31, 32, 52) for d in (-1, 0, 1)]
    numbers = [sign * edge for sign in (1, -1) for edge in edges]
    texts = ["x" * length for length in (0, 1, 31, 32, 255, 256, 65535, 65536)] + ["żółw 🐢\0"]
    arrays: list[object] = [[0] * length for length in (0, 15, 16, 65535, 65536)]
    maps = [{str(n): n for n in range(length)} for length in (0, 15, 16, 300)]

    def nested(depth: int) -> object:
        kinds = [
            lambda: None,
            lambda: chance.random() < 0.5,
            lambda: chance.randint(-(2**53) + 1, 2**53 - 1),
            lambda: chance.uniform(-1e9, 1e9),
            lambda: "".join(chance.choice("aé水🐢") for _ in range(chance.randint(0, 40))),
            lambda: [nested(depth + 1) for _ in range(chance.randint(0, 20))],
            lambda: {str(i): nested(depth + 1) for i in range(chance.randint(0, 20))},
        ]
        return chance.choice(kinds[: 5 if depth > 3 else 7])()

    floats = [0.5, -1.5, 1e300, 5e-324, float("inf"), 3.141592653589793]
    binary = [bytes(300), b"", bytes(range(256))]
    return [
        *(None, True, False, *numbers, *floats, *texts, *binary, *arrays, *maps),
        *(nested(0) for _ in range(60)),
    ]


def test_msgpack_of_the_page_agrees_with_pythons(open_tab: OpenTab) -> None:
    values = some_values()
    page = open_tab(ISLAND)
    script = "return argument.map((each) => text(encode(decode(bytes(each)))));".replace(
        "text(encode", "toText(encode"
    )
    # Long values would overflow the stack of one call with all their bytes as arguments.
    helper = (
        "const toText = (all) => btoa(Array.from(all, (b) => String.fromCharCode(b)).join(''));"
    )
    packed = [msgpack.packb(value) for value in values]
    answers = in_page(page, helper + script, [as_text(raw) for raw in packed])
    again = [msgpack.unpackb(base64.b64decode(answer)) for answer in answers]
    assert again == values
    lengths = [len(base64.b64decode(answer)) for answer in answers]
    assert lengths == [len(raw) for raw in packed]  # no longer than they need be


def test_bytes_that_are_not_one_msgpack_value_are_refused(open_tab: OpenTab) -> None:
    good = msgpack.packb([None, True, -70000, 1.5, "żółw", b"12", [1] * 20, {"a": {"b": 2**40}}])
    hostile = [
        *(good[:length] for length in range(len(good))),  # cut off anywhere
        good + b"\xc0",
        b"\xc1",  # never used
        b"\xd4\x01\x00",  # an extension
        b"\xa2\xc3\x28",  # text that is not UTF-8
        b"\x81\x01\x02",  # a key that is no text
        b"\xcf" + b"\xff" * 8,  # more than a number of JavaScript holds
        b"\xd3\x80" + b"\x00" * 7,
        b"\xdd\xff\xff\xff\xff",  # four thousand million values, it says
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 10_000,  # nesting without end
    ]
    page = open_tab(ISLAND)
    script = """return argument.map((each) => {
        try {
            return decode(bytes(each)), "taken";
        } catch (error) {
            return error.name;
        }
    });"""
    verdicts = in_page(page, script, [as_text(raw) for raw in hostile])
    assert verdicts == ["RangeError"] * len(hostile)


def test_what_msgpack_cannot_hold_is_not_sent(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND)
    script = """
        const deep = [];
        for (let i = 0, at = deep; i < 50; i += 1, at = at[0]) at.push([]);
        const half = "\\ud800";
        const values = [undefined, () => 1, 1n, half, new Date(), new Map(), [undefined], deep];
        return values.map((value) => {
            try {
                return encode(value), "sent";
            } catch (error) {
                return error.name;
            }
        });"""
    assert in_page(page, script, None) == ["RangeError"] * 8


def camel(name: str) -> str:
    """`max_health` and `MaxHealth` are `maxHealth` in the page."""
    words = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower().split("_")
    return words[0] + "".join(word.title() for word in words[1:])


def example(kind: Any, number: int) -> Any:
    """Return a value that is allowed, and another one for another number where there is one."""
    if isinstance(kind, Table):
        row = kind.row(*(example(column.kind, i) for i, column in enumerate(kind.columns)))
        return (row, row) if kind.shape == "rows" else row
    if isinstance(kind, packets.Whole):
        return min(kind.high, kind.low + number)
    if isinstance(kind, packets.Flag):
        return number % 2 == 0
    if isinstance(kind, packets.Angle):
        return 0.25 * number
    if isinstance(kind, packets.OrNull):
        return None if number % 2 else example(kind.kind, number)
    if isinstance(kind, packets.Many):
        return (example(kind.kind, number), example(kind.kind, number + 1))
    return f"text {number}"


def example_packet(kind: PacketType) -> Any:
    return kind.cls(*(example(column.kind, i) for i, column in enumerate(kind.columns)))


def as_page_has_it(value: Any, kind: Any) -> Any:
    """Return an argument as it should come out of the page's decoder."""
    if not isinstance(kind, Table):
        return kind.write(value)
    rows = value if kind.shape == "rows" else [value]
    names = [camel(column.name) for column in kind.columns]
    return [
        dict(
            zip(
                names,
                (c.kind.write(v) for c, v in zip(kind.columns, row, strict=True)),
                strict=True,
            )
        )
        for row in rows
    ]


def test_every_packet_of_the_server_is_understood(open_tab: OpenTab) -> None:
    kinds = [kind for kind in PACKETS if kind.direction == Direction.TO_CLIENT]
    examples = [example_packet(kind) for kind in kinds]
    page = open_tab(ISLAND)
    script = "return argument.map((each) => codec.decode(bytes(each)));"
    told = in_page(page, script, [as_text(packets.encode(packet)) for packet in examples])
    assert len(told) > 15
    for kind, packet, got in zip(kinds, examples, told, strict=True):
        wanted = {
            camel(c.name): as_page_has_it(getattr(packet, c.name), c.kind) for c in kind.columns
        }
        assert got == {"t": camel(kind.name), **wanted}


def test_every_packet_that_the_page_can_send_is_one_of_the_protocol(open_tab: OpenTab) -> None:
    messages: list[dict[str, object]] = [
        {"t": "spawn", "profile": {"name": "Ann", "skin": 3}},
        {"t": "move", "angle": 1.5},
        {"t": "move", "angle": None},
        {"t": "aim", "angle": 1},
        {"t": "attack", "active": 1, "angle": -0.5},
        {"t": "attack", "active": 0, "angle": None},
        {"t": "autoAttack"},
        {"t": "selectItem", "id": 5},
        {"t": "upgrade", "id": 2},
        {"t": "chat", "text": "żółw 🐢"},
        {"t": "ping"},
    ]
    page = open_tab(ISLAND)
    script = "return argument.map((each) => text(codec.encode(each)));"
    sent = [base64.b64decode(each) for each in in_page(page, script, messages)]
    assert [packets.decode_from_client(raw) for raw in sent] == [
        packets.Spawn(packets.Profile("Ann", 3)),
        packets.Move(1.5),
        packets.Move(None),
        packets.Aim(1.0),
        packets.Attack(True, -0.5),
        packets.Attack(False, None),
        packets.AutoAttack(),
        packets.SelectItem(5),
        packets.Upgrade(2),
        packets.Chat("żółw 🐢"),
        packets.Ping(),
    ]


def test_what_is_no_packet_is_refused(open_tab: OpenTab) -> None:
    wrong: list[object] = [
        *(1, "33", [], ["33"], ["33", [], 0], ["33", 5], [33, [[]]]),
        *(["nope", []], ["33", []], ["33", [[], []]], ["33", [[1, 2, 3]]], ["constructor", []]),
    ]
    page = open_tab(ISLAND)
    script = """return argument.map((each) => {
        try {
            return codec.decode(bytes(each)), "taken";
        } catch (error) {
            return error.name;
        }
    });"""
    raw = [as_text(msgpack.packb(value)) for value in wrong]
    assert in_page(page, script, raw) == ["RangeError"] * len(wrong)


# ==== 2. Alone in the world ================================================


def test_who_gives_a_name_is_born_with_it_and_a_colour(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND)
    page.locator("#join:not([hidden])").wait_for()
    page.get_by_role("radio", name="Colour 3").check()
    spawn(page, "Ann")
    player = own(page)
    assert (player["name"], player["skin"], player["health"]) == ("Ann", 2, 100)
    expect(page.get_by_label("Your name")).to_be_hidden()
    expect(page.locator("#bar button")).to_have_count(5)
    expect(page.get_by_role("button", name="wall: 10 wood")).to_be_visible()
    wait_for(page, "game.amounts.wood === 20")
    expect(page.locator("[data-resource=wood]")).to_have_text("20")
    wait_for(page, "/^\\d+ ms$/.test(document.querySelector('#ping').textContent)")


def test_a_newcomer_has_a_colour_that_the_page_shows(open_tab: OpenTab) -> None:
    """Each colour threw dice of its own: one newcomer in three had none."""
    page = open_tab(ISLAND)
    for first in (0, 1):
        page.add_init_script(
            f"let thrown = {first}; Math.random = () => ((thrown += 1) % 2 ? 0.7 : 0.6);"
        )
        page.reload()
        wait_for(page, "document.querySelectorAll('#skins input').length === 8")
        assert page.locator("#skins input:checked").count() == 1


def test_the_keys_walk_in_eight_directions(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND)
    spawn(page, "Ann")
    page.evaluate(WALK, [3000, 3000, 2500])  # away from the edges
    sent = """() => {
        window.moves = [];
        const send = WebSocket.prototype.send;
        WebSocket.prototype.send = function (data) {
            import("/sandbox/msgpack.js").then(({ decode }) => {
                const [code, [angle]] = decode(data);
                if (code === "33") moves.push(angle);
            });
            send.call(this, data);
        };
    }"""
    page.evaluate(sent)
    before = own(page)
    page.keyboard.down("w")
    wait_for(page, f"{ME}.y < value - 40 || game.objects.length === 0", before["y"])
    page.keyboard.down("ArrowRight")
    wait_for(page, "moves.length === 2")
    page.keyboard.up("w")
    page.keyboard.up("ArrowRight")
    wait_for(page, "moves.length === 4 && moves.at(-1) === null")
    turn = 3.141592653589793 / 4
    assert page.evaluate("moves") == pytest.approx([-2 * turn, -turn, 0, None])


def test_who_looks_away_with_a_key_held_down_stands_still(open_tab: OpenTab) -> None:
    """A hidden page gets no frames, and without them it told nothing: the player walked on."""
    page = open_tab(ISLAND)
    page.evaluate(HIDING)
    spawn(page, "Ann")
    page.evaluate(SPY)
    moves = "sent.filter((code) => code === value).length"
    page.keyboard.down("d")
    wait_for(page, f"{moves} === 1", code_of(packets.Move))
    page.evaluate("hide(), dispatchEvent(new Event('blur'))")
    wait_for(page, f"{moves} === 2", code_of(packets.Move))


def test_who_looks_away_with_a_thumb_on_the_stick_stands_still(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND, viewport=PHONE, has_touch=True, is_mobile=True)
    page.evaluate(HIDING)
    spawn(page, "Ann")
    page.evaluate(SPY)
    moves = "sent.filter((code) => code === value).length"
    touch = """(type) => {
        const stick = document.getElementById("move-stick");
        stick.setPointerCapture = () => {};  // this finger is not a real one
        stick.dispatchEvent(new PointerEvent(type, { clientX: 0, clientY: 0 }));
    }"""
    page.evaluate(touch, "pointerdown")
    wait_for(page, f"{moves} === 1", code_of(packets.Move))
    page.evaluate("hide()")
    page.evaluate(touch, "pointercancel")
    wait_for(page, f"{moves} === 2", code_of(packets.Move))


def test_what_was_to_be_seen_for_a_while_has_passed_for_who_looks_away(open_tab: OpenTab) -> None:
    """Who came back to a hidden page saw all blows and heard all words since at once."""
    page = open_tab(ISLAND)
    seen = page.evaluate(
        """async () => {
            const { World } = await import("/sandbox/world.js");
            const world = new World();
            world.init({ world: 900, view: 900, tickRate: 20, playerScale: 35 });
            world.introduce({ sid: 1, health: 100 });
            const tell = (ticks, act) => {
                for (let i = 0; i < ticks; i += 1) {
                    world.place([{ sid: 1, x: i, y: 0, dir: 0 }]);
                    act();
                }
                const { words, since } = world.known.get(1);
                return [world.floats.length, since.speech === undefined ? "" : words];
            };
            world.begin(1, "speech", { words: "old" });
            let health = 100;
            const hidden = tell(600, () => world.changeHealth({ sid: 1, value: (health -= 1) }));
            world.begin(1, "speech", { words: "new" });
            return [hidden, tell(40, () => {})];
        }"""
    )
    (floats, words), after = seen
    assert floats <= 2 * 20, "of 600 blows, those of the last two seconds at the most"
    assert words == ""
    assert after == [0, "new"]


def test_the_player_stays_in_the_middle_of_the_picture(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND)
    spawn(page, "Ann")
    page.evaluate(WALK, [3000, 3000, 2000])
    box = page.locator("#stage").bounding_box()
    assert box is not None
    wait_for(
        page,
        f"""(() => {{
            const {{ x, y }} = game.toPage({ME}.at);
            return Math.hypot(x - value[0], y - value[1]) < 30;
        }})()""",
        [box["width"] / 2, box["height"] / 2],
    )


def test_scenery_around_the_player_is_told_and_drawn(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND)
    wait_for(page, "new Set(game.objects.map(({ resource }) => resource)).size >= 2")
    wait_for(
        page,
        """(() => {
            const canvas = document.getElementById("stage");
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return new Set(new Uint32Array(data.buffer)).size > 300;
        })()""",
    )


def test_letters_typed_into_a_field_move_nobody(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND)
    spawn(page, "Ann")
    before = own(page)
    page.keyboard.press("Enter")
    page.keyboard.type("wasd e 123")
    assert page.locator("#chat-text").input_value() == "wasd e 123"
    page.keyboard.press("Enter")
    wait_for(page, f"{ME}.words === 'wasd e 123'")
    after = own(page)
    assert (after["x"], after["y"], after["build"]) == (before["x"], before["y"], None)
    expect(page.locator("#chat")).to_be_hidden()


@pytest.mark.parametrize(
    "words",
    ["The quick brown fox jumps over the lazy dog, and is gone now", "".join(map(chr, HAN))],
    ids=["words", "letters"],
)
def test_all_that_somebody_says_is_seen_on_a_phone(open_tab: OpenTab, words: str) -> None:
    """The beginning and the end of a line were cut off."""
    page = open_tab(ISLAND, viewport=PHONE)
    spawn(page, "Ann")
    page.evaluate(f"() => {{{SPY_ON_TEXTS}}}")
    page.keyboard.press("Enter")
    page.locator("#chat-text").fill(words)
    page.keyboard.press("Enter")
    said = "Object.entries(texts).filter(([text]) => value.includes(text))"
    wait_for(page, f"{said}.length > 0", words)
    lines = page.evaluate(f"(value) => {said}", words)
    assert "".join(text for text, _ in lines).replace(" ", "") == words.replace(" ", "")
    assert all(0 < left < right < 1 for _, (left, right) in lines), lines


AT_THE_EDGE = """async () => {
    const { World } = await import("/sandbox/world.js");
    const { inView } = World.prototype;
    const zoom = game.toPage({ x: 1, y: 0 }).x - game.toPage({ x: 0, y: 0 }).x;
    World.prototype.inView = function () {
        const x = this.last.x + innerWidth / 2 / zoom - 10;
        return inView.call(this).map(({ player, at }) => ({ player, at: { ...at, x } }));
    };
}"""


def wait_for_text_around(page: Page, text: str, place: float) -> None:
    """Wait until a text is seen whole, around a part of the width; the view may be on its way."""
    at = f"[0, texts[value][0], {place}, texts[value][1], 1]"
    wait_for(page, f"texts[value] && {at}.every((edge, i, all) => !i || all[i - 1] < edge)", text)


def test_all_that_somebody_says_at_the_edge_of_the_view_is_seen(open_tab: OpenTab) -> None:
    """Half of it was cut off there."""
    page = open_tab(ISLAND, viewport=PHONE)
    spawn(page, "Ann")
    page.evaluate(AT_THE_EDGE)
    page.evaluate(f"() => {{{SPY_ON_TEXTS}}}")
    page.keyboard.press("Enter")
    page.locator("#chat-text").fill("I am over here")
    page.keyboard.press("Enter")
    wait_for_text_around(page, "I am over here", 0.9)


def test_a_name_at_the_edge_of_the_view_is_seen_whole(open_tab: OpenTab) -> None:
    """Who stands at the edge of the island, or has just come into view, had half a name."""
    page = open_tab(ISLAND, viewport=PHONE)
    spawn(page, "Ann")
    page.evaluate(AT_THE_EDGE)
    page.evaluate(f"() => {{{SPY_ON_TEXTS}}}")
    wait_for_text_around(page, "Ann", 0.95)


def test_who_begins_to_talk_without_enter_does_nothing(open_tab: OpenTab) -> None:
    """The e of `hello` struck on and on."""
    page = open_tab(ISLAND)
    spawn(page, "Ann")
    page.evaluate(SPY)
    note(page.locator("#toast"))
    page.keyboard.type("hello qx u")
    wait_for_note(page, r"shown.*>Enter to talk, \? for the keys\.<")
    assert page.locator("#auto").get_attribute("aria-pressed") == "false"
    page.keyboard.press("0")
    wait_for(page, "sent.includes(value)", code_of(packets.AutoAttack))
    sent = set(page.evaluate("sent")) - {code_of(packets.Aim), code_of(packets.Ping)}
    assert sent == {code_of(packets.Attack), code_of(packets.AutoAttack)}, "the space bar strikes"
    expect(page.locator("#auto")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("t")
    page.keyboard.type("hello")
    assert page.locator("#chat-text").input_value() == "hello"


def test_a_newcomer_is_shown_the_controls_once_and_again_when_asked(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND)
    spawn(page, "Ann")
    panel = page.get_by_role("region", name="How to play")
    panel.wait_for()
    before = own(page)
    page.keyboard.down("s" if before["y"] < 3000 else "w")
    wait_for(page, f"Math.abs({ME}.y - value) > 40", before["y"])  # it is in nobody's way
    expect(panel).to_be_visible()
    page.get_by_role("button", name="Got it").click()
    panel.wait_for(state="hidden")
    page.keyboard.press("?")
    panel.wait_for()
    page.keyboard.press("Escape")
    panel.wait_for(state="hidden")
    page.get_by_role("button", name="Controls").click()
    panel.wait_for()
    page.reload()
    wait_for(page, f"window.game && {ME}?.name === 'Ann'")
    expect(panel, "who has seen it is not shown it again").to_be_hidden()


@pytest.mark.parametrize("size", [PHONE, PHONE_ON_ITS_SIDE], ids=str)
def test_a_phone_is_shown_how_thumbs_play(open_tab: OpenTab, size: dict[str, int]) -> None:
    page = open_tab(ISLAND, viewport=size, has_touch=True, is_mobile=True)
    spawn(page, "Ann")
    page.get_by_text("Left stick").wait_for()
    expect(page.get_by_text("W A S D")).to_be_hidden()
    assert sticking_out(page) == []
    box = page.locator("#help").bounding_box()
    assert box and box["y"] >= 0 and box["y"] + box["height"] <= size["height"]
    page.get_by_role("button", name="Got it").tap()
    page.locator("#help").wait_for(state="hidden")


@pytest.mark.parametrize("size", [SMALL, PHONE_ON_ITS_SIDE], ids=str)
def test_the_button_that_ends_the_help_is_seen_in_a_low_window(
    open_tab: OpenTab, size: dict[str, int]
) -> None:
    """Of the help there were three lines, over what one has in hand, and no button."""
    page = open_tab(ISLAND, viewport=size)
    spawn(page, "Ann")
    panel, button = page.locator("#help"), page.get_by_role("button", name="Got it")
    button.wait_for()
    over, under = (part.bounding_box() for part in (panel, button))
    assert over and under and over["height"] > size["height"] / 2
    assert under["y"] + under["height"] <= over["y"] + over["height"] <= size["height"]
    button.click()
    panel.wait_for(state="hidden")


def test_the_page_offers_the_subprotocol(browser: Browser, server: ServerProcess) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.add_init_script(
            """window.offered = [];
            window.WebSocket = class extends WebSocket {
                constructor(url, protocols) {
                    super(url, protocols);
                    this.addEventListener("open", () => offered.push([protocols, this.protocol]));
                }
            };"""
        )
        page.goto(server.http(ISLAND))
        wait_for(page, "offered.length === 1")
        assert page.evaluate("offered") == [[["moo.v1"], "moo.v1"]]


# ==== 3. Together ==========================================================


def test_on_an_island_two_see_each_other_walk_and_look(open_tab: OpenTab) -> None:
    ann, bob = two_players(open_tab)
    assert bob.evaluate(f"{seen(me(ann))}.name") == "Ann"
    assert ann.evaluate(f"{seen(me(bob))}.name") == "Bob"
    start = own(ann)
    ann.evaluate(WALK, [450, 450, 150])

    def agree() -> bool:
        here, there = own(ann), bob.evaluate(seen(me(ann)))
        return (here["x"], here["y"]) == (there["x"], there["y"]) != (start["x"], start["y"])

    wait_until(agree)
    box = ann.locator("#stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"]
    below = itertools.cycle((60, 62))

    def looks_down() -> bool:
        ann.mouse.move(x, y - next(below))  # again, as she may still walk
        return bool(bob.evaluate(f"Math.abs({seen(me(ann))}.dir - Math.PI / 2) < 0.1"))

    wait_until(looks_down)


def test_on_an_island_others_glide_between_ticks(open_tab: OpenTab) -> None:
    ann, bob = two_players(open_tab)
    bob.evaluate(
        f"""() => {{
            window.between = 0;
            setInterval(() => {{
                const player = {seen(me(ann))};
                if (player && !Number.isInteger(player.at.x)) between += 1;
            }}, 10);
        }}"""
    )
    targets = itertools.cycle((800, 100))

    def have_glided() -> bool:
        """Walk until they have: a busy machine may draw nothing for a while."""
        ann.evaluate(WALK, [next(targets), own(ann)["y"], 60])
        return bool(bob.evaluate("between > 5"))

    wait_until(have_glided)


def test_on_an_island_ones_own_name_lies_on_those_of_others(open_tab: OpenTab) -> None:
    ann, bob = two_players(open_tab)
    for page, names in ((ann, ["Bob", "Ann"]), (bob, ["Ann", "Bob"])):
        page.evaluate(SPY_ON_ORDER, names)
        wait_for(page, "window.drawn")
        assert page.evaluate("drawn") == names


def test_on_an_island_what_one_says_the_other_reads(open_tab: OpenTab) -> None:
    ann, bob = two_players(open_tab)
    ann.keyboard.press("Enter")
    ann.keyboard.type(MARKUP)
    ann.keyboard.press("Enter")
    wait_for(bob, f"{seen(me(ann))}.words === value", MARKUP)
    expect(bob.locator("#log p")).to_have_text([f"Ann: {MARKUP}"])
    expect(bob.locator("main img")).to_have_count(0)
    assert bob.title() == "Sandbox · ScaleSocket"


def test_on_an_island_wood_is_gathered_and_made_into_a_wall(open_tab: OpenTab) -> None:
    ann, bob = two_players(open_tab)
    walk_to_tree(ann)
    ann.keyboard.press("0")  # strikes on and on
    wait_for(ann, "game.amounts.wood >= 25")
    ann.keyboard.press("0")
    wait_for(ann, "Number(document.querySelector('[data-resource=wood]').textContent) >= 25")
    tree = ann.evaluate("game.objects.find(({ resource }) => resource === 0)")
    ann.keyboard.press("3")
    wait_for(ann, "game.plan?.item.name === 'wall'")
    expect(ann.locator("[data-item=wall]")).to_have_attribute("aria-pressed", "true")
    assert ann.evaluate("game.plan.free") is False  # the tree is there
    box = ann.locator("#stage").bounding_box()
    assert box is not None
    away = ann.evaluate(
        f"""(tree) => game.toPage({{
            x: 2 * {ME}.x - tree.x, y: 2 * {ME}.y - tree.y,
        }})""",
        tree,
    )
    ann.mouse.move(box["x"] + away["x"], box["y"] + away["y"])
    wait_for(ann, "game.plan.free")
    wood = ann.evaluate("game.amounts.wood")
    ann.mouse.down()
    ann.mouse.up()
    wall = f"game.objects.find(({{ owner }}) => owner === {me(ann)})"
    wait_for(bob, f"{wall} !== undefined")
    assert bob.evaluate(f"{wall}.type") == 5
    wait_for(ann, "game.amounts.wood === value", wood - 10)
    wait_for(ann, "document.querySelector('[data-item=wall] small')?.textContent === '1/30'")
    wait_for(ann, "game.plan === null")


def test_on_an_island_what_cannot_be_paid_is_not_shown_as_free(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND)
    spawn(page, "Ann")
    expect(page.locator("[data-item=windmill]")).to_have_class(re.compile(r"\bpoor\b"))
    expect(page.locator("[data-item=wall]")).not_to_have_class(re.compile(r"\bpoor\b"))
    page.evaluate(WALK, [450, 450, 200])
    page.locator("[data-item=windmill]").click()
    wait_for(page, "game.plan?.item.name === 'windmill'")
    assert page.evaluate("game.plan.free") is False
    page.locator("[data-item=windmill]").click()  # put away again
    wait_for(page, "game.plan === null")


def test_on_an_island_who_is_struck_down_sees_it_and_lives_again(open_tab: OpenTab) -> None:
    ann, bob = two_players(open_tab)
    victim = me(bob)
    place = own(bob)
    walk_up_to(ann, place["x"], place["y"], 95)
    note(ann.locator("#toast"))
    ann.keyboard.down(" ")
    wait_for(bob, f"{ME}?.health < 100")
    wait_for(bob, "game.me === null")
    ann.keyboard.up(" ")
    bob.locator("#join:not([hidden])").wait_for()
    expect(bob.locator("#join-title")).to_have_text("You have died")
    wait_for(bob, "!document.body.classList.contains('alive')")
    wait_for(ann, f"{seen(victim)} === undefined")
    wait_for_note(ann, "shown.*>Ann has beaten Bob")
    wait_for(bob, "game.leaders[0]?.name === 'Ann' && game.leaders[0].score >= 50")
    expect(bob.locator("#leaders li").first.locator("span")).to_have_text(["Ann", "50"])
    bob.keyboard.type("wasd")  # whoever dies is still pressing keys
    assert bob.get_by_label("Your name").input_value() == "Bob"
    bob.keyboard.press("Enter")
    wait_for(bob, f"{ME}?.health === 100 && game.me !== value", victim)
    wait_for(ann, "Object.values(game.players).some(({ name }) => name === 'Bob')")


def test_on_an_island_who_closes_the_tab_is_gone(open_tab: OpenTab) -> None:
    ann, bob = two_players(open_tab)
    wait_for(bob, "document.body.dataset.players === '2'")
    ann.close()
    wait_for(bob, "Object.keys(game.players).length === 1")
    wait_for(bob, "document.body.dataset.players === '1'")


def test_on_an_island_thumbs_walk_and_strike(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND, viewport=PHONE, has_touch=True, is_mobile=True)
    other = open_tab(ISLAND)
    spawn(other, "Bob")
    spawn(page, "Ann")
    wait_for(other, f"{seen(me(page))} !== undefined")
    touch = """([id, type, x, y]) => {
        const stick = document.getElementById(id);
        const box = stick.getBoundingClientRect();
        stick.setPointerCapture = () => {};  // this finger is not a real one
        stick.hasPointerCapture = () => true;
        stick.dispatchEvent(new PointerEvent(type, {
            pointerId: 9, pointerType: "touch",
            clientX: box.left + box.width * x, clientY: box.top + box.height * y,
        }));
    }"""
    x = own(page)["x"]
    side = 0.95 if x < 450 else 0.05  # towards the middle
    page.evaluate(touch, ["move-stick", "pointerdown", side, 0.5])
    wait_for(page, f"Math.abs({ME}.x - value) > 40", x)
    page.evaluate(touch, ["move-stick", "pointerup", side, 0.5])
    page.evaluate(touch, ["strike-stick", "pointerdown", 0.5, 0.02])
    wait_for(other, f"Math.abs({seen(me(page))}.dir + Math.PI / 2) < 0.05")
    page.evaluate(touch, ["strike-stick", "pointerup", 0.5, 0.02])
    expect(page.get_by_role("button", name="Talk")).to_be_visible()


# ==== 4. Coming back =======================================================


@pytest.mark.parametrize("letter", ["n", "🐰"])
def test_a_name_that_a_link_or_another_page_has_made_too_long_is_cut(
    open_tab: OpenTab, letter: str
) -> None:
    """The chat takes longer names, and remembers them for all pages; here the server closed the
    connection for it (1008), and for the same name again at each attempt to come back."""
    page = open_tab(f"/sandbox/?room=long&name={letter * 20}")
    page.get_by_role("button", name="Play").click()
    wait_for(page, "game.me !== null")
    wait_for(page, f"Object.values(game.players).some(({{ name }}) => name === '{letter * 16}')")


def test_who_loads_the_page_anew_is_born_again_under_the_same_name(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND)
    spawn(page, "Ann")
    page.reload()
    wait_for(page, f"window.game && {ME}?.name === 'Ann'")
    expect(page.get_by_label("Your name")).to_be_hidden()


def test_after_a_restart_the_page_comes_back_with_its_player(browser: Browser) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        with serve("sandbox", addr=f"127.0.0.1:{free_port()}") as first:
            page.goto(first.http(ISLAND))
            spawn(page, "Ann")
        wait_for(page, "document.body.dataset.status === 'waiting'")
        assert page.evaluate("game.objects.length") > 0, "the last picture stays"
        assert "brightness" in page.evaluate("getComputedStyle(stage).filter")
        wait_for(page, "/^No connection: ./.test(document.querySelector('#note-text').textContent)")
        with serve("sandbox", addr=f"127.0.0.1:{first.port}"):
            wait_for(
                page, "document.querySelector('#note-text').textContent === 'Connected again.'"
            )
            wait_for(page, f"{ME}?.name === 'Ann'")
            page.goto("about:blank")


# ==== 5. Fit for all =======================================================


@pytest.mark.parametrize("size", [PHONE, PHONE_ON_ITS_SIDE, DESKTOP], ids=str)
def test_nothing_sticks_out_of_the_window(open_tab: OpenTab, size: dict[str, int]) -> None:
    touch = size is not DESKTOP
    page = open_tab(ISLAND, viewport=size, has_touch=touch, is_mobile=touch)
    page.locator("#join:not([hidden])").wait_for()
    for element in ("#join", "#skins input:last-child"):
        box = page.locator(element).bounding_box()
        assert box is not None
        assert box["y"] >= 0 and box["y"] + box["height"] <= size["height"]
    assert sticking_out(page) == []
    spawn(page, "A name of length")
    wait_for(page, "document.querySelectorAll('#leaders li').length === 1")
    assert sticking_out(page) == []
    expect(page.locator("#move-stick")).to_be_visible(visible=touch)


def test_on_the_narrowest_page_no_button_lies_on_its_title(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND, viewport=NARROWEST, has_touch=True, is_mobile=True)
    page.locator("#join:not([hidden])").wait_for()
    title = page.locator("h1")
    assert title.evaluate("(title) => title.scrollWidth <= title.clientWidth")


PARTS = ["#map", "#leaders", "#resources", "#bar", "#talk", "#auto"]


@pytest.mark.parametrize("size", [PHONE, PHONE_ON_ITS_SIDE, NARROWEST], ids=str)
def test_the_parts_of_a_phones_page_do_not_cover_each_other(
    open_tab: OpenTab, size: dict[str, int]
) -> None:
    page = open_tab(ISLAND, viewport=size, has_touch=True, is_mobile=True)
    spawn(page, "A name of length")
    wait_for(page, "document.querySelectorAll('#leaders li').length >= 1")
    wait_for(page, "document.querySelectorAll('.price').length === 4")
    assert overlapping(page, [*PARTS, "#move-stick", "#strike-stick"]) == []


@pytest.mark.parametrize("size", [NARROWEST, HALF, ZOOMED, LOW, DESKTOP], ids=str)
def test_the_parts_of_the_page_in_a_small_window_do_not_cover_each_other(
    open_tab: OpenTab, size: dict[str, int]
) -> None:
    """At 200 % the buttons that talk and strike on lay over what one has, and over the windmill."""
    page = open_tab(ISLAND, viewport=size)
    spawn(page, "A name of length")
    wait_for(page, "document.querySelectorAll('#leaders li').length >= 1")
    wait_for(page, "document.querySelectorAll('.price').length === 4")
    assert overlapping(page, PARTS) == []
    assert sticking_out(page) == []


@pytest.mark.parametrize("size", [PHONE, PHONE_ON_ITS_SIDE, DESKTOP], ids=str)
def test_what_a_thing_costs_stays_within_its_tile(open_tab: OpenTab, size: dict[str, int]) -> None:
    """The windmill's 50 and 10 reached over its edges."""
    page = open_tab(ISLAND, viewport=size, has_touch=size is not DESKTOP)
    spawn(page, "Ann")
    wait_for(page, "document.querySelectorAll('.price').length === 4")
    spare = page.evaluate(
        """() => [...document.querySelectorAll(".price")].flatMap((price) => {
            const tile = price.parentElement.getBoundingClientRect();
            const parts = [...price.children].map((part) => part.getBoundingClientRect());
            return [parts[0].left - tile.left, tile.right - parts.at(-1).right];
        })"""
    )
    assert min(spare) >= 3  # the width of its border


def test_there_is_a_day_and_a_night(open_tab: OpenTab) -> None:
    ground = """(() => {
        const stage = document.getElementById("stage");
        const { data } = stage.getContext("2d").getImageData(0, 0, stage.width, 40);
        return data.filter((_, i) => i % 4 < 3).reduce((sum, value) => sum + value, 0)
            / (data.length * 0.75);
    })()"""
    page = open_tab(ISLAND, color_scheme="light")
    wait_for(page, f"game.objects.length > 0 && {ground} > 90")
    page.emulate_media(color_scheme="dark")
    wait_for(page, f"{ground} < 80")


def test_the_page_asks_nobody_but_its_own_server(browser: Browser, server: ServerProcess) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        asked: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.on("response", lambda r: failed.append(r.url) if r.status >= 400 else None)
        page.goto(server.http(ISLAND))
        spawn(page, "Ann")
        own_server = f"{server.host}:{server.port}/"
        assert len(asked) > 5
        assert [url for url in asked if url.split("://")[1].startswith(own_server) is False] == []
        assert failed == []


def test_every_control_has_a_name(open_tab: OpenTab) -> None:
    page = open_tab(ISLAND)
    spawn(page, "Ann")
    page.locator("#leaders li").wait_for()  # there is none while it is empty
    for role, name in [
        ("application", "The island"),
        ("img", "Map"),
        ("list", "Leaderboard"),
        ("list", "What you have"),
        ("toolbar", "In hand"),
        ("button", "hammer"),
        ("button", "apple: 10 food"),
        ("button", "spike: 20 wood, 5 stone"),
        ("button", "windmill: 50 wood, 10 stone"),
        ("button", "Talk"),
        ("button", "Strike on and on"),
        ("button", "Copy link"),
        ("link", "All rooms"),
        ("log", "What is said"),
    ]:
        found = page.get_by_role(cast(Any, role), name=re.compile(f"^{name}"))
        expect(found, str((role, name))).to_have_count(1)
