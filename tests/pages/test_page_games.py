"""The pages of tic-tac-toe and snake, played in a real browser against the real server."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from scalesocket.game.snake_rules import DIRECTIONS, World

from tests import browser as in_browser
from tests.browser import (
    DESKTOP,
    MARKUP,
    NARROWEST,
    PAGES,
    PATIENCE,
    PHONE,
    PHONE_ON_ITS_SIDE,
    SPY_ON_ORDER,
    SPY_ON_TEXTS,
    OpenTab,
    Visit,
    expect,
    note,
    sticking_out,
    wait_for,
    wait_for_note,
)
from tests.support import ROOT, RawClient, ServerProcess, free_port, serve, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

browser, open_tab, visit = in_browser.browser, in_browser.open_tab, in_browser.visit

TABLE = "/tictactoe/?room=parlour"
GARDEN = "/snake/?room=garden"
SMALL_SCREENS = [PHONE, PHONE_ON_ITS_SIDE]


# These wait until somebody's seat is free again.
IMPATIENT = {
    "test_who_finds_no_free_seat_at_tictactoe_is_offered_the_next": ("--resume", "1"),
    "test_who_leaves_takes_the_snake_along": ("--resume", "1"),
}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """Serve the game that a test is about, nearly always as the README says: with no options."""
    game = "snake" if "snake" in request.node.name else "tictactoe"
    with serve(game, *IMPATIENT.get(request.node.name, ())) as running:
        yield running


def give_name(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Play").click()


# ==== 1. Tic-tac-toe =======================================================


def sit_down(page: Page, name: str) -> None:
    wait_for(page, "game.table !== null")
    give_name(page, name)
    wait_for(page, "game.table?.name === value", name)


def two_players(open_tab: OpenTab, **options: Any) -> tuple[Page, Page]:
    """Return the tabs of Ann, who is X, and of Bob, who is O."""
    ann, bob = open_tab(TABLE, **options), open_tab(TABLE, **options)
    sit_down(ann, "Ann")
    sit_down(bob, "Bob")
    return ann, bob


def cell(page: Page, number: int) -> Any:
    return page.locator(".cell").nth(number)


def board(page: Page) -> str:
    return cast(str, page.evaluate("game.table.board"))


def play(players: tuple[Page, Page], moves: list[int]) -> None:
    """Let the two click on cells in turn, each when the move before has arrived."""
    for count, number in enumerate(moves):
        page = players[count % 2]
        wait_for(page, "game.table.board.replaceAll('.', '').length === value", count)
        cell(page, number).click()
    for page in players:
        wait_for(page, "game.table.board.replaceAll('.', '').length === value", len(moves))


def test_two_play_a_whole_game_of_tictactoe_by_clicks(open_tab: OpenTab) -> None:
    ann, bob = two_players(open_tab)
    verdict = "document.querySelector('#verdict').textContent === value"
    wait_for(ann, verdict, "Your turn.")
    wait_for(bob, verdict, "Ann’s turn.")
    play((ann, bob), [4, 0, 2, 1, 6])
    wait_for(ann, verdict, "You win!")
    wait_for(bob, verdict, "Ann wins.")
    for page in (ann, bob):
        assert board(page) == "OOX.X.X.."
        expect(page.locator(".winning path")).to_have_count(1)
        expect(page.locator(".cell.won")).to_have_count(3)
        assert cell(page, 4).get_attribute("aria-label") == "centre, X"
        assert cell(page, 0).get_attribute("aria-label") == "top left, O"
        assert cell(page, 3).get_attribute("aria-label") == "middle left, empty"


def test_a_rematch_at_tictactoe_begins_when_both_have_asked_and_swaps_the_marks(
    open_tab: OpenTab,
) -> None:
    ann, bob = two_players(open_tab)
    expect(ann.get_by_role("button", name="Rematch")).to_be_hidden()
    play((ann, bob), [4, 0, 2, 1, 6])
    ann.get_by_role("button", name="Rematch").click()
    ann.get_by_role("button", name="Waiting for Bob").wait_for()
    bob.locator(".seat.X .about", has_text="rematch?").wait_for()
    bob.get_by_role("button", name="Rematch").click()
    for page in (ann, bob):
        wait_for(page, "game.table.board === '.........' && game.table.result === null")
    assert bob.evaluate("game.table.you") == "X"
    expect(ann.locator(".winning path")).to_have_count(0)
    expect(ann.locator(".seat.O .about")).to_have_text("O · you")
    play((bob, ann), [0, 1, 2, 4, 3, 5, 7, 6, 8])
    wait_for(ann, "document.querySelector('#verdict').textContent === 'A draw.'")


def test_tictactoe_can_be_played_with_the_keys_alone(open_tab: OpenTab) -> None:
    ann, bob = open_tab(TABLE), open_tab(TABLE)
    for page, name in ((ann, "Ann"), (bob, "Bob")):
        wait_for(page, "game.table !== null && document.activeElement?.id === 'name'")
        page.keyboard.type(f"{name}")
        page.keyboard.press("Enter")
        wait_for(page, "game.table.name === value", name)
    wait_for(ann, "game.table.players.O === 'Bob'")
    ann.keyboard.press("1")
    wait_for(bob, "game.table.board === 'X........'")
    bob.keyboard.press("ArrowRight")  # to the centre
    bob.keyboard.press("ArrowDown")
    bob.keyboard.press("ArrowDown")  # not beyond the edge
    bob.keyboard.press("ArrowRight")
    bob.keyboard.press("Enter")
    wait_for(ann, "game.table.board === 'X.......O'")
    label = "document.activeElement.getAttribute('aria-label')"
    wait_for(bob, f"{label} === value", "bottom right, O")


def test_digits_typed_into_a_tictactoe_name_are_no_moves(open_tab: OpenTab) -> None:
    page = open_tab(TABLE)
    wait_for(page, "game.table !== null")
    page.get_by_label("Your name").press_sequentially("R2D2")
    expect(page.locator("#problem")).to_have_text("")
    assert page.get_by_label("Your name").input_value() == "R2D2"


def test_the_tictactoe_server_judges_moves_and_its_words_are_shown(open_tab: OpenTab) -> None:
    ann, bob = two_players(open_tab)
    cell(bob, 0).click()
    wait_for(bob, "/turn/.test(document.querySelector('#problem').textContent)")
    assert board(bob) == "........."
    play((ann, bob), [4])
    wait_for(bob, "document.querySelector('#problem').textContent === ''")
    cell(bob, 4).click()
    wait_for(bob, "/^[A-Z].+[.]$/.test(document.querySelector('#problem').textContent)")
    assert board(ann) == "....X...."


def test_who_comes_third_watches_tictactoe(open_tab: OpenTab) -> None:
    ann, bob = two_players(open_tab)
    third = open_tab(TABLE)
    wait_for(third, "game.table?.spectators === 1")
    expect(third.locator("#company")).to_have_text("You are watching.")
    expect(third.locator("#verdict")).to_have_text("Ann’s turn.")
    wait_for(ann, "document.querySelector('#company').textContent === '1 watching.'")
    cell(third, 0).click()
    expect(third.locator("#problem")).to_contain_text("watching")
    play((ann, bob), [4, 0])
    wait_for(third, "game.table.board === 'O...X....'")


def test_a_name_taken_at_the_tictactoe_table_is_refused_in_words(open_tab: OpenTab) -> None:
    ann, other = open_tab(TABLE), open_tab(TABLE)
    sit_down(ann, "Ann")
    wait_for(other, "game.table !== null")
    for unseen in ("", "\u3164", "\u2800\u200b"):
        give_name(other, unseen)
        expect(other.get_by_role("alert").first).to_have_text("Please give a name.")
    give_name(other, "ann")
    wait_for(other, "/taken/.test(document.querySelector('#name-problem').textContent)")
    sit_down(other, "Bob")
    wait_for(ann, "game.table.players.O === 'Bob'")


def test_a_tictactoe_player_who_loads_the_page_anew_comes_back_to_the_seat(
    open_tab: OpenTab,
) -> None:
    ann, bob = two_players(open_tab)
    play((ann, bob), [4, 0])
    ann.goto("about:blank")
    wait_for(bob, "game.table.away === 'X'")
    about = "document.querySelector('.seat.X .about').textContent"
    wait_for(bob, f"/^X · away, \\d+ s$/.test({about})")
    seconds = bob.evaluate(f"parseInt({about}.slice(9))")
    wait_for(bob, f"parseInt({about}.slice(9)) < value", seconds)
    ann.go_back()
    wait_for(bob, "game.table.away === null")
    wait_for(ann, "game.table?.you === 'X'")
    expect(ann.get_by_label("Your name")).to_be_hidden()
    play_on = cell(ann, 8)
    play_on.click()
    wait_for(bob, "game.table.board === 'O...X...X'")


def test_another_tab_with_the_same_secret_takes_the_seat_over(open_tab: OpenTab) -> None:
    """Who duplicates a tab, or whose old connection hangs, has the seat at once (case 5)."""
    ann, bob = two_players(open_tab)
    stored = ann.evaluate("JSON.stringify(sessionStorage)")
    again = open_tab(TABLE)
    wait_for(again, "game.table !== null")  # it has noted a seat of its own
    again.evaluate("all => Object.assign(sessionStorage, JSON.parse(all))", stored)
    again.reload()
    wait_for(again, "game.table?.you === 'X'")
    wait_for(ann, "game.state === 'closed'")
    wait_for(ann, "/another window/.test(document.querySelector('#note-text').textContent)")
    cell(again, 4).click()
    wait_for(bob, "game.table.board === '....X....'")
    assert again.evaluate("game.table.you") == "X", "and the first tab does not take it back"


def test_the_name_at_tictactoe_is_remembered_for_another_room(open_tab: OpenTab) -> None:
    page = open_tab(TABLE)
    sit_down(page, "Ann")
    page.goto(page.url.replace("parlour", "salon"))
    wait_for(page, "game.table !== null && game.room === 'salon'")
    field = page.get_by_label("Your name")
    expect(field).to_be_visible()
    expect(field).to_have_value("Ann")
    assert page.evaluate("game.table.name") is None
    page.goto(f"{page.url}&name=Zo%C3%AB")
    wait_for(page, "game.table !== null")
    assert field.input_value() == "Zoë", "what the link says comes first"


QUICK = """from scalesocket.game.tictactoe import TicTacToe


class Quick(TicTacToe):
    grace = 1
"""


def test_a_long_name_at_tictactoe_leaves_room_for_what_is_said_of_it(
    visit: Visit, tmp_path: Path
) -> None:
    """On a phone it was the name alone: who watched did not learn who had won."""
    (tmp_path / "quick.py").write_text(QUICK)
    last_words = """() => {
        const [range, place] = [document.createRange(), verdict.getBoundingClientRect()];
        range.selectNodeContents(verdict.lastChild);
        const { left, right } = range.getBoundingClientRect();
        return left >= place.left && right <= place.right ? range.toString().trim() : "cut off";
    }"""
    quick = ("--staticdir", str(PAGES), "quick:Quick")
    with serve(*quick, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}) as server:
        ann, bob, guest = (visit(server, TABLE, viewport=NARROWEST) for _ in range(3))
        sit_down(ann, "W" * 16)
        sit_down(bob, "M" * 16)
        wait_for(guest, "game.table?.turn === 'X'")
        assert guest.evaluate(last_words) == "’s turn."
        play((ann, bob), [4, 0, 2, 1])
        ann.close()
        wait_for(guest, "game.table.forfeit")
        assert guest.evaluate(last_words) == "has left."
        bob.close()
        guest.close()


@pytest.mark.parametrize("size", [*SMALL_SCREENS, DESKTOP], ids=str)
def test_a_name_at_tictactoe_stands_on_one_line_with_what_is_said_of_it(
    open_tab: OpenTab, size: dict[str, int]
) -> None:
    """Beside the board the apostrophe of “Ann’s turn.” was a comma."""
    tops = """[...verdict.childNodes].map((part) => {
        const range = document.createRange();
        range.selectNodeContents(part);
        return range.getBoundingClientRect().top;
    })"""
    ann, bob = (open_tab(TABLE, viewport=size) for _ in range(2))
    sit_down(ann, "Ann")
    sit_down(bob, "Bob")
    expect(bob.locator("#verdict")).to_have_text("Ann’s turn.")
    name, words = bob.evaluate(tops)
    assert name == pytest.approx(words, abs=1)


@pytest.mark.parametrize("size", [*SMALL_SCREENS, DESKTOP], ids=str)
def test_the_board_of_tictactoe_stays_where_it_is(open_tab: OpenTab, size: dict[str, int]) -> None:
    place = "JSON.stringify(document.getElementById('board').getBoundingClientRect())"
    page, rival = (open_tab(TABLE, viewport=size) for _ in range(2))
    wait_for(page, "game.table !== null")
    places = {page.evaluate(place)}
    sit_down(page, "Ann")
    page.get_by_text("Waiting for another player.").wait_for()
    cut = "verdict.scrollWidth > verdict.clientWidth || verdict.scrollHeight > verdict.clientHeight"
    assert not page.evaluate(cut), "it was: Waiting for somebody to…"
    places.add(page.evaluate(place))
    sit_down(rival, "Bob")
    for number, at in enumerate((4, 0, 2, 1, 6)):
        player = (page, rival)[number % 2]
        player.get_by_text("Your turn.").wait_for()
        places.add(page.evaluate(place))
        cell(player, at).click()
    page.get_by_text("You win!").wait_for()
    places.add(page.evaluate(place))
    assert len(places) == 1


def test_who_finds_no_free_seat_at_tictactoe_is_offered_the_next(open_tab: OpenTab) -> None:
    ann, _ = two_players(open_tab)
    third = open_tab(TABLE)
    third.get_by_text("Your name, for the next seat").wait_for()
    third.get_by_label("Your name").fill("Cy")
    third.get_by_role("button", name="Wait").click()
    wait_for(third, "game.table?.name === 'Cy' && game.table.you === null")
    for number, at in enumerate((4, 0, 2, 1, 6)):
        page = (ann, _)[number % 2]
        page.get_by_text("Your turn.").wait_for()
        cell(page, at).click()
    ann.get_by_text("You win!").wait_for()
    ann.close()
    wait_for(third, "game.table.you !== null")


def test_how_long_an_opponent_at_tictactoe_is_away_is_not_cut_off(open_tab: OpenTab) -> None:
    """It was "away, 29 s …" on a phone."""
    ann, bob = two_players(open_tab, viewport=PHONE)
    play((ann, bob), [4])
    ann.close()
    note = bob.locator(".seat.away .about")
    note.filter(has_text=re.compile(r"X · away, \d+ s")).wait_for()
    assert note.evaluate("note => note.scrollWidth <= note.clientWidth")


def test_names_and_rooms_of_tictactoe_are_shown_as_text(open_tab: OpenTab) -> None:
    name = "<b>Ann</b><img>"
    page = open_tab(f"/tictactoe/?room={MARKUP}")
    sit_down(page, name)
    expect(page.locator(".seat.X .who")).to_have_text(name)
    expect(page.locator("#room-name")).to_have_text(MARKUP)
    expect(page.locator("main img, header img")).to_have_count(0)
    assert page.title() == "Tic-tac-toe · ScaleSocket"


def test_after_a_restart_the_tictactoe_page_comes_back_with_its_player(browser: Browser) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        with serve("tictactoe", addr=f"127.0.0.1:{free_port()}") as first:
            page.goto(first.http(TABLE))
            sit_down(page, "Ann")
        wait_for(page, "document.body.dataset.status === 'waiting'")
        expect(page.locator(".seat.X .who"), "the last picture stays").to_have_text("Ann")
        assert float(page.evaluate("getComputedStyle(board).opacity")) < 0.7
        expect(page.locator("#verdict")).to_be_hidden()
        cell(page, 0).click()
        expect(page.locator("#problem")).to_have_text("")
        expect(page.locator("#note")).to_be_visible()
        wait_for(page, "/^No connection: ./.test(document.querySelector('#note-text').textContent)")
        with serve("tictactoe", addr=f"127.0.0.1:{first.port}"):
            wait_for(
                page, "document.querySelector('#note-text').textContent === 'Connected again.'"
            )
            wait_for(page, "game.table?.players.X === 'Ann' && game.table.name === 'Ann'")
            page.locator("#verdict").get_by_text("Waiting for another player.").wait_for()
            page.goto("about:blank")


# ==== 2. Snake =============================================================

# Drives the snake of a page with its arrow keys: towards the nearest food, around what is solid.
AUTOPILOT = """() => {
    const STEPS = {ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]};
    const drive = () => {
        const { players, food, width, height } = game.world;
        const mine = players.find(({ id }) => id === game.me);
        if (!mine?.body.length) return;
        const [x, y] = mine.body[0];
        const solid = new Set(players.flatMap(({ body }) => body.map(String)));
        const between = ([a, b], [c, d]) => Math.abs(a - c) + Math.abs(b - d);
        const far = (at) => Math.min(...food.map((place) => between(at, place)));
        const ways = Object.entries(STEPS)
            .map(([code, [dx, dy]]) => ({ code, at: [x + dx, y + dy] }))
            .filter(({ at: [a, b] }) => a >= 0 && b >= 0 && a < width && b < height)
            .filter(({ at }) => !solid.has(String(at)))
            .sort((p, q) => far(p.at) - far(q.at));
        if (ways.length) dispatchEvent(new KeyboardEvent("keydown", { code: ways[0].code }));
    };
    window.autopilot = setInterval(drive, 40);
}"""
MINE = "game.world.players.find(({ id }) => id === game.me)"


def play_snake(page: Page, name: str) -> None:
    wait_for(page, "game.me !== null")
    give_name(page, name)
    wait_for(page, f"{MINE}?.body.length >= 3")


def test_two_snakes_live_in_the_same_world(open_tab: OpenTab) -> None:
    ann, bob = open_tab(GARDEN), open_tab(GARDEN)
    play_snake(ann, "Ann")
    play_snake(bob, "Bob")
    wait_for(ann, "document.body.dataset.players === '2'")
    names = "game.world.players.map(({ name }) => name)"
    assert ann.evaluate(names) == bob.evaluate(names) == ["Ann", "Bob"]
    wait_until(lambda: sorted(ann.locator("#scores .name").all_inner_texts()) == ["Ann", "Bob"])
    expect(ann.locator("#scores .mine .name")).to_have_text("Ann")
    expect(bob.locator("#scores .mine .name")).to_have_text("Bob")


def test_a_snake_that_eats_grows_and_scores(open_tab: OpenTab) -> None:
    ann, bob = open_tab(GARDEN), open_tab(GARDEN)
    play_snake(ann, "Ann")
    ann.evaluate(AUTOPILOT)
    wait_for(ann, f"{MINE}.score >= 2 && {MINE}.body.length >= 5")
    wait_for(ann, "Number(document.querySelector('#scores .mine .score').textContent) >= 2")
    wait_for(bob, "game.world.players.some(({ name, best }) => name === 'Ann' && best >= 2)")


def test_who_has_long_followed_the_snakes_has_the_state_that_a_newcomer_is_sent(
    open_tab: OpenTab,
) -> None:
    ann = open_tab(GARDEN)
    play_snake(ann, "Ann")
    ann.evaluate(AUTOPILOT)
    wait_for(ann, f"{MINE}.best >= 2")
    newcomer = open_tab(GARDEN)
    wait_for(newcomer, "game.me !== null && game.world.players.length === 1")

    def at_one_tick() -> tuple[dict[str, Any], dict[str, Any]] | None:
        one, other = (page.evaluate("game.world") for page in (ann, newcomer))
        return (one, other) if one["tick"] == other["tick"] else None

    one, other = cast("tuple[dict[str, Any], dict[str, Any]]", wait_until(at_one_tick))
    assert one["players"] == other["players"]
    assert sorted(one["food"]) == sorted(other["food"])


def history(seed: int) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Let snakes come, turn and go at random; return all states and the deltas between them."""
    rng = random.Random(seed)
    world = World(14, 9, rng)
    states, deltas = [world.describe()], []
    for tick in range(150):
        if rng.random() < 0.1:
            world.join(tick, f"snake {tick}")
        for player in list(world.players):
            world.turn(player, rng.choice([*DIRECTIONS]))
            if rng.random() < 0.01:
                world.leave(player)
        deltas.append(world.step().describe())
        states.append(world.describe())
    return json.loads(json.dumps(states)), deltas


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_deltas_applied_by_the_page_give_every_state_of_the_snakes(
    open_tab: OpenTab, seed: int
) -> None:
    states, deltas = history(seed)
    kinds = {key for delta in deltas for key in delta}
    assert {"left", "joined", "died", "moved", "grew", "eaten", "born", "food", "scores"} <= kinds
    page = open_tab(GARDEN)
    told = page.evaluate(
        """async ([first, deltas]) => {
            const { World } = await import("/snake/world.js");
            const world = new World();
            world.replace(first);
            return deltas.map((delta) => {
                const taken = world.apply(delta);
                const players = structuredClone([...world.players.values()]);
                return { taken, tick: world.tick, players, food: world.food.toSorted() };
            });
        }""",
        [states[0], deltas],
    )
    for got, wanted in zip(told, states[1:], strict=True):
        assert got["taken"] is True
        assert got["tick"] == wanted["tick"]
        assert got["players"] == wanted["players"]
        assert sorted(got["food"]) == wanted["food"]
    assert (
        page.evaluate(
            """async (delta) => {
            const { World } = await import("/snake/world.js");
            return new World().apply(delta);  // not the next one
        }""",
            deltas[-1],
        )
        is False
    )


def test_a_snake_that_runs_into_the_hedge_dies_and_lives_again(open_tab: OpenTab) -> None:
    page = open_tab(GARDEN)
    play_snake(page, "Ann")
    page.keyboard.press("ArrowUp")  # whatever way it went, this or a turn and this leads there
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    # All at one moment: two seconds later it lives again.
    wait_for(
        page,
        """document.querySelector("#fate.shown") !== null
        && document.querySelector("#fate-text").textContent === "You ran into the hedge."
        && /^(Next life in \\d s|Any moment)/.test(document.querySelector("#fate-next").textContent)
        && !document.body.classList.contains("alive")""",
    )
    wait_for(page, f"{MINE}.body.length >= 3")
    page.locator("#fate:not(.shown)").wait_for(state="attached")


def test_a_newborn_snake_is_shown_the_keys_and_has_time_to_find_them(open_tab: OpenTab) -> None:
    page = open_tab(GARDEN)
    page.get_by_text("Steer with the arrow keys or W A S D.").wait_for()
    play_snake(page, "Ann")
    hint = page.get_by_text("off you go! (or by itself in")
    hint.wait_for()
    born = page.evaluate(f"({{ at: {MINE}.body[0], tick: game.world.tick }})")
    wait_for(page, "game.world.tick >= value + 24", born["tick"])  # 3 seconds
    assert page.evaluate(f"{MINE}.body[0]") == born["at"]
    page.evaluate(AUTOPILOT)
    hint.wait_for(state="hidden")
    wait_for(page, f"String({MINE}.body[0]) !== String(value)", born["at"])


@pytest.mark.parametrize("size", [*SMALL_SCREENS, {"width": 390, "height": 844}], ids=str)
def test_the_hint_about_the_snake_does_not_lie_over_the_map(
    open_tab: OpenTab, size: dict[str, int]
) -> None:
    page = open_tab(GARDEN, viewport=size, has_touch=True, is_mobile=True)
    play_snake(page, "Ann")
    page.get_by_text("off you go!").wait_for()
    hint, stage = (page.locator(part).bounding_box() for part in ("#hint", "#stage"))
    assert hint and stage
    taken = page.evaluate("parseFloat(getComputedStyle(stage).getPropertyValue('--map'))")
    assert taken > 40, "there is a map"
    assert hint["y"] + hint["height"] <= stage["y"] + stage["height"] - taken


def test_a_phone_shows_a_garden_of_snakes_that_is_worth_its_screen(open_tab: OpenTab) -> None:
    """Half of it was empty, above and below a strip of garden."""
    page = open_tab(GARDEN, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    play_snake(page, "Ann")
    lawn_and_map = page.evaluate(
        """() => {
            const stage = document.getElementById("stage");
            const { data } = stage.getContext("2d").getImageData(
                stage.width / 2, 0, 1, stage.height);
            const rows = Array.from({ length: stage.height }, (_, y) => data[4 * y]);
            const lawn = rows.filter((red) => red >= 0xeb).length;
            return lawn / stage.height;
        }"""
    )
    assert lawn_and_map > 0.6


def test_a_snake_glides_between_ticks(open_tab: OpenTab) -> None:
    page = open_tab(GARDEN)
    play_snake(page, "Ann")
    page.evaluate(AUTOPILOT)
    # Heads are drawn also between two cells: places that no tick has ever told of.
    wait_for(page, "game.heads[game.me]?.some((at) => Math.abs(at - Math.round(at)) > 0.1)")
    wait_for(
        page,
        f"""(() => {{
            const head = game.heads[game.me];
            const body = {MINE}?.body;
            if (!head || !body?.length) return false;
            const [dx, dy] = [head[0] - body[0][0], head[1] - body[0][1]];
            return Math.abs(dx) + Math.abs(dy) <= 2;
        }})()""",
    )


def test_who_looks_away_from_the_snakes_is_not_shown_all_that_died_since(
    open_tab: OpenTab,
) -> None:
    """All the dead of a hidden hour lay in the garden on coming back."""
    page = open_tab(GARDEN)
    drawn = page.evaluate(
        """async () => {
            const { World } = await import("/snake/world.js");
            const { View } = await import("/snake/view.js");
            const world = new World();
            const canvas = document.createElement("canvas");
            document.createElement("div").append(canvas);
            const view = new View(canvas, world);
            const ann = { id: 1, name: "Ann", body: [], dir: "right", score: 0, best: 0 };
            world.welcome({ width: 60, height: 20, rate: 8 });
            world.replace({ tick: 0, players: [ann], food: [] });
            view.reset();
            for (let tick = 1; tick <= 400; tick += 1) {
                const y = tick % 20;
                const born = tick % 16 ? [] : [{ id: 1, body: [[3, y], [2, y]], dir: "right" }];
                const died = tick % 16 === 8 ? [{ id: 1, dir: "right", respawn: 0 }] : [];
                world.apply({ tick, born, died });
                view.ticked();
            }
            view.update(0.02);
            let heads = 0;
            const { rotate } = CanvasRenderingContext2D.prototype;
            CanvasRenderingContext2D.prototype.rotate = function (angle) {
                heads += 1;
                rotate.call(this, angle);
            };
            view.draw(0);
            CanvasRenderingContext2D.prototype.rotate = rotate;
            return heads;
        }"""
    )
    assert 1 <= drawn <= 2, "of 25 lives, the last one, and the one before that fades"


def test_ones_own_name_lies_on_those_of_other_snakes(open_tab: OpenTab) -> None:
    ann, bob = open_tab(GARDEN), open_tab(GARDEN)
    play_snake(ann, "Ann")
    play_snake(bob, "Bob")
    for page, names in ((ann, ["Bob", "Ann"]), (bob, ["Ann", "Bob"])):
        page.evaluate(SPY_ON_ORDER, names)
        wait_for(page, "window.drawn")
        assert page.evaluate("drawn") == names


def test_a_snake_can_be_steered_with_swipes_and_with_the_pad(open_tab: OpenTab) -> None:
    page = open_tab(GARDEN, viewport=PHONE, has_touch=True, is_mobile=True)
    play_snake(page, "Ann")
    page.evaluate(
        """() => {
            window.sent = [];
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (data) {
                sent.push(JSON.parse(data).dir);
                send.call(this, data);
            };
        }"""
    )
    for button in ("Up", "Left", "Down", "Right"):
        page.get_by_role("button", name=button, exact=True).tap()
    assert page.evaluate("sent") == ["up", "left", "down", "right"]
    page.evaluate(
        """() => {
            const stage = document.getElementById("stage");
            const touch = (type, x, y) => stage.dispatchEvent(new PointerEvent(type, {
                pointerId: 7, pointerType: "touch", clientX: x, clientY: y, buttons: 1,
            }));
            touch("pointerdown", 100, 200);
            touch("pointermove", 104, 202);  // too short
            touch("pointermove", 140, 205);
            touch("pointermove", 141, 150);  // the same finger goes on
        }"""
    )
    assert page.evaluate("sent.slice(4)") == ["right", "up"]


def test_who_leaves_takes_the_snake_along(open_tab: OpenTab) -> None:
    ann, bob = open_tab(GARDEN), open_tab(GARDEN)
    play_snake(ann, "Ann")
    play_snake(bob, "Bob")
    wait_for(bob, "document.body.dataset.players === '2'")
    ann.close()
    wait_for(bob, "document.body.dataset.players === '1'")
    wait_for(bob, "Object.keys(game.heads).every((id) => Number(id) === game.me)")


def test_a_taken_name_is_refused_to_a_snake_in_words(open_tab: OpenTab) -> None:
    ann, other = open_tab(GARDEN), open_tab(GARDEN)
    play_snake(ann, "Ann")
    wait_for(other, "game.me !== null")
    give_name(other, "Ann")
    wait_for(other, "/taken/.test(document.querySelector('#name-problem').textContent)")
    play_snake(other, "Bob")


def test_after_a_restart_the_snake_page_comes_back_with_its_player(browser: Browser) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        with serve("snake", addr=f"127.0.0.1:{free_port()}") as first:
            page.goto(first.http(GARDEN))
            play_snake(page, "Ann")
        wait_for(page, "document.body.dataset.status === 'waiting'")
        shown = page.evaluate("game.world.players")
        assert [player["name"] for player in shown] == ["Ann"], "the last picture stays"
        assert page.evaluate("Object.keys(game.heads).length") == 1
        assert "brightness" in page.evaluate("getComputedStyle(stage).filter")
        with serve("snake", addr=f"127.0.0.1:{first.port}"):
            wait_for(page, f"{MINE}?.name === 'Ann' && {MINE}.body.length >= 3")
            expect(page.get_by_label("Your name")).to_be_hidden()
            page.goto("about:blank")


# ==== 3. Both ==============================================================


@pytest.mark.parametrize("size", [*SMALL_SCREENS, DESKTOP], ids=str)
def test_nothing_of_tictactoe_sticks_out(open_tab: OpenTab, size: dict[str, int]) -> None:
    ann, bob = two_players(open_tab, viewport=size, has_touch=size in SMALL_SCREENS)
    play((ann, bob), [4, 0, 2, 1, 6])
    for page in (ann, bob, open_tab(TABLE, viewport=size)):
        wait_for(page, "game.table !== null")
        assert sticking_out(page) == []
        assert page.evaluate("document.documentElement.scrollHeight") <= size["height"]
        box = cell(page, 8).bounding_box()
        assert box is not None
        assert box["width"] >= 60 and box["height"] >= 60  # large enough for a finger
        assert box["y"] + box["height"] <= size["height"]


def test_the_narrowest_page_of_tictactoe_says_whom_one_waits_for(open_tab: OpenTab) -> None:
    page = open_tab(TABLE, viewport=NARROWEST)
    sit_down(page, "Ann")
    verdict = page.get_by_text("Waiting for another player.")
    verdict.wait_for()
    assert verdict.evaluate("(verdict) => verdict.scrollWidth <= verdict.clientWidth")


@pytest.mark.parametrize("size", [*SMALL_SCREENS, DESKTOP], ids=str)
def test_nothing_of_snake_sticks_out(open_tab: OpenTab, size: dict[str, int]) -> None:
    touch = size in SMALL_SCREENS
    page = open_tab(GARDEN, viewport=size, has_touch=touch, is_mobile=touch)
    play_snake(page, "A name of length")
    assert sticking_out(page) == []
    pad = page.get_by_role("button", name="Left", exact=True)
    expect(pad).to_be_visible(visible=touch)
    box = page.locator("#stage").bounding_box()
    assert box is not None
    assert box["height"] >= 300 and box["width"] >= 350


def paper(page: Page) -> int:
    """Return how light the page's background is, from 0 to 255."""
    script = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    red, green, blue = cast("list[int]", page.evaluate(script))
    return round((red + green + blue) / 3)


@pytest.mark.parametrize("path", [TABLE, GARDEN], ids=["tictactoe", "snake"])
def test_there_is_a_day_and_a_night(open_tab: OpenTab, path: str) -> None:
    page = open_tab(path, color_scheme="light")
    assert paper(page) > 200
    page.emulate_media(color_scheme="dark")
    assert paper(page) < 60


def test_the_snakes_garden_is_dark_at_night(open_tab: OpenTab) -> None:
    corner = """(() => {
        const stage = document.getElementById("stage");
        const { data } = stage.getContext("2d").getImageData(0, stage.height - 3, 1, 1);
        return (data[0] + data[1] + data[2]) / 3;
    })()"""
    page = open_tab(GARDEN, color_scheme="light")
    wait_for(page, f"{corner} > 180")
    page.emulate_media(color_scheme="dark")
    wait_for(page, f"{corner} < 60")


@pytest.mark.parametrize("path", [TABLE, GARDEN], ids=["tictactoe", "snake"])
def test_a_game_asks_nobody_but_its_own_server(
    browser: Browser, server: ServerProcess, path: str
) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        asked: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.on("response", lambda r: failed.append(r.url) if r.status >= 400 else None)
        page.goto(server.http(path))
        wait_for(page, "document.body.dataset.status === 'connected'")
        own = f"{server.host}:{server.port}/"
        assert len(asked) > 5
        assert [url for url in asked if url.split("://")[1].startswith(own) is False] == []
        assert failed == []


@pytest.mark.parametrize("path", [TABLE, GARDEN], ids=["tictactoe", "snake"])
def test_the_link_of_a_game_is_copied(open_tab: OpenTab, path: str) -> None:
    page = open_tab(path, permissions=["clipboard-read", "clipboard-write"])
    button = page.get_by_role("button", name="Copy link")
    note(button)
    button.click()
    wait_for_note(page, ">Copied!<")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    page.get_by_role("link", name="All rooms").click()
    wait_for(page, "location.pathname === '/'")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_name_of_a_snake_is_seen_whole_at_the_edge(
    browser: Browser, tmp_path: Path, size: dict[str, int]
) -> None:
    """Of sixteen wide letters the first were cut off."""
    name = "W" * 16
    body = [[0, 10], [0, 11], [0, 12]]
    player = {"id": 7, "name": name, "body": body, "dir": "up", "score": 0, "best": 0}
    size_of_world = {"width": 60, "height": 20, "rate": 8}
    told = [
        {"t": "welcome", "id": 7, "name": name, **size_of_world},
        {"t": "full", "tick": 1, "players": [player | {"respawn": None, "waits": 9}], "food": []},
    ]
    lines = [json.dumps(message) for message in told]
    (tmp_path / "edge.py").write_text(f"for _ in open(0):\n    print(*{lines!r}, sep='\\n')\n")
    options = ("--json", "--staticdir", str(PAGES), str(tmp_path / "edge.py"))
    with serve(*options) as server, browser.new_context(viewport=size) as context:
        page = context.new_page()
        page.add_init_script(SPY_ON_TEXTS)
        page.goto(server.http(GARDEN))
        wait_for(page, "texts[value]", name)
        left, right = page.evaluate("(name) => texts[name]", name)
        assert 0 < left < right < 1


def test_before_a_snake_has_seen_the_world_no_hedge_is_there(open_tab: OpenTab) -> None:
    """Before a full room, or while it was connecting, a hedge of one step stood in the middle."""
    with serve("--maxclients", "1", "snake") as server, RawClient.connect(server, "garden"):
        page = open_tab()
        page.emulate_media(color_scheme="light")
        page.goto(server.http(GARDEN))
        expect(page.locator("#note-text")).to_contain_text("the room is full")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        green = page.evaluate(
            """() => {
                const { width, height } = document.querySelector("#stage");
                const context = document.querySelector("#stage").getContext("2d");
                const { data } = context.getImageData(0, 0, width, height);
                const hedge = [0x5f, 0x9e, 0x58];
                const isHedge = (at) => hedge.every((part, i) => data[at + i] === part);
                let count = 0;
                for (let at = 0; at < data.length; at += 4) count += isHedge(at);
                return count;
            }"""
        )
        assert green == 0
        page.goto("about:blank")
