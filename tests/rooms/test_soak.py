"""The soak: its accountant notices whatever goes wrong, and a short run of it goes right."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable

import pytest

from tests.bench.soak import Account, Journal, Life, main, parse_frame, word

# Two clients in one room; 7 whispers to itself, which is 8's only gap.
JOURNAL = """\
join 7 0 0 0
join 8 0 0 0
chat 7 1 1 0
chat 8 2 1 0
chat 7 1 2 7
chat 8 2 2 0
chat 7 1 3 0
chat 8 2 3 0
leave 7
leave 8
printed 8
end
"""
WORDS = [word(0, 0, 0), word(1, 0, 0), *(word(n + 2, n % 2 + 1, n // 2 + 1) for n in range(6))]
CRASHED = JOURNAL.replace("leave 7\nleave 8\nprinted 8\nend\n", "printed 6\n")


def life(speaker: int, places: list[int], ending: str = "closed", sent: int = 3) -> Life:
    """Return the life of client 7 or 8, who was told what stands at these places."""
    received = array("Q", [WORDS[place] for place in places])
    return Life(speaker, 6 + speaker, "room", sent, received, ending)


FIRST, SECOND = [0, 2, 3, 4, 5, 6, 7], [1, 2, 3, 5, 6, 7]


def faults(*lives: Life, journal: str = JOURNAL) -> list[str]:
    rooms = {"room": Journal.parse(journal.splitlines(keepends=True))}
    return Account(rooms, lives).faults


# ==== What a client is told ================================================


@pytest.mark.parametrize("ending", ["closed", "reset", "fin", "silent"])
def test_whole_lives_are_in_order(ending: str) -> None:
    assert faults(life(1, FIRST, ending), life(2, SECOND, ending)) == []


def test_what_came_before_its_own_welcome_is_welcome_too() -> None:
    """A client is a member before the room hears of it."""
    journal = "join 7 0 0 0\nchat 7 1 1 0\njoin 8 0 0 0\nleave 8\nleave 7\nprinted 3\nend\n"
    early = Life(2, 8, "room", 0, array("Q", [word(1, 1, 1), word(2, 0, 0)]), "reset")
    assert faults(early, journal=journal) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda places: places.remove(3), "lost 3"),
        (lambda places: places.insert(4, 3), "got 3 twice"),
        (lambda places: places.append(7), "got 7 twice"),
        (lambda places: places.insert(2, places.pop(4)), "before 3"),
        (lambda places: places.remove(1), "first, but joined at 1"),
        (lambda places: places.insert(3, 4), "got 4 before 5"),
    ],
    ids=["lost", "twice", "twice at the end", "reordered", "not from its join", "not for it"],
)
@pytest.mark.parametrize("ending", ["closed", "reset", "slow"])
def test_a_message_that_went_wrong_is_noticed(
    change: Callable[[list[int]], object], complaint: str, ending: str
) -> None:
    places = list(SECOND)
    change(places)
    (fault,) = faults(life(1, FIRST), life(2, places, ending))
    assert complaint in fault
    assert "client 2" in fault


def test_a_message_with_the_words_of_another_is_noticed() -> None:
    wrong = life(2, SECOND)
    wrong.received[3] += 1
    (fault,) = faults(wrong)
    assert "5" in fault


def test_a_message_that_the_room_never_told_is_noticed() -> None:
    wrong = life(2, SECOND)
    wrong.received.append(word(8, 1, 4))
    (fault,) = faults(wrong)
    assert "was told of 8" in fault


def test_who_was_closed_by_the_room_must_have_got_its_own_last_word() -> None:
    assert faults(life(2, SECOND, "bye")) == []
    assert faults(life(2, SECOND[:-1], "bye")) != []


def test_a_room_that_nobody_knows_is_noticed() -> None:
    assert Account({}, [life(1, FIRST)]).faults == ["nobody knows the room room"]


def test_who_closed_and_was_told_nothing_is_noticed() -> None:
    assert Account({}, [Life(1, ending="closed")]).faults != []
    assert Account({}, [Life(1, ending="room")]).faults == []


# ==== What a room heard ====================================================


@pytest.mark.parametrize("ending", ["closed", "fin", "bad"])
def test_what_a_client_sent_and_the_room_never_heard_is_noticed(ending: str) -> None:
    (fault,) = faults(life(1, FIRST, ending, sent=4))
    assert "heard 3 times only, but sent 4" in fault


def test_what_a_client_sent_that_vanished_may_be_lost() -> None:
    assert faults(life(1, FIRST, "reset", sent=9)) == []


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [("1 1 2", "1, 1, 2"), ("1 3 2", "1, 3, 2"), ("1 3 4", "1, 3, 4"), ("2 3 4", "2, 3, 4")],
    ids=["twice", "out of order", "one lost", "first lost"],
)
def test_a_room_that_heard_a_client_wrongly_is_noticed(numbers: str, complaint: str) -> None:
    chats = "".join(f"chat 7 1 {number} 0\n" for number in numbers.split())
    journal = f"join 7 0 0 0\n{chats}leave 7\nprinted 4\nend\n"
    words = [word(0, 0, 0), *(word(i + 1, 1, int(n)) for i, n in enumerate(numbers.split()))]
    (fault,) = faults(Life(1, 7, "room", 4, array("Q", words), "reset"), journal=journal)
    assert complaint in fault


@pytest.mark.parametrize("more", ["leave 7\n", "chat 7 1 4 0\n", "join 8 0 0 0\n", "leave 9\n"])
def test_an_order_of_events_that_cannot_be_is_noticed(more: str) -> None:
    assert faults(journal=JOURNAL + more) != []


# ==== Rooms that crash =====================================================


def test_when_a_room_crashes_all_get_what_it_had_told() -> None:
    assert faults(life(1, FIRST[:5], "room"), life(2, SECOND[:4], "room"), journal=CRASHED) == []


def test_who_misses_what_the_room_had_told_before_its_crash_is_noticed() -> None:
    (fault,) = faults(life(1, FIRST[:4], "room"), journal=CRASHED)
    assert "lost 5" in fault


def test_what_one_was_told_of_a_crashed_room_all_must_have_been_told() -> None:
    (fault,) = faults(life(1, FIRST, "room"), life(2, SECOND[:-1], "room"), journal=CRASHED)
    assert "client 2" in fault
    assert "lost 7" in fault


def test_a_line_that_a_kill_cut_off_is_none() -> None:
    assert len(Journal.parse(["join 7 0 0 0\n", "chat 7 1 1"]).said) == 1


def test_who_lost_a_room_that_did_not_crash_is_noticed() -> None:
    (fault,) = faults(life(1, FIRST, "room"))
    assert "did not crash" in fault


# ==== The whole ============================================================


def test_frames_are_cut_anywhere() -> None:
    frames = {b"": b"\x81\x00", b"x" * 125: b"\x81\x7d", b"x" * 126: b"\x81\x7e\x00\x7e"}
    frames[b"x" * 65536] = b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"
    for payload, head in frames.items():
        whole = b"--" + head + payload
        for cut in (2, 3, len(head), len(head) + 1, len(whole) - 1):
            assert cut == len(whole) or parse_frame(bytearray(whole[:cut]), 2) is None
        assert parse_frame(bytearray(whole), 2) == (1, payload, len(whole))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_message_of_a_crowd_is_accounted_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Half a minute in CI, a quarter here; `python3 -m tests.bench.soak 20` is the real thing."""
    minutes = 0.5 if os.environ.get("CI") else 0.25
    status = main([str(minutes), "--seed", str(os.getpid())])
    report = capsys.readouterr().out
    assert status == 0, report
    assert "every message is accounted for" in report
    print(report)
