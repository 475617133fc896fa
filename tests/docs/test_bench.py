"""The benchmark: its accounts notice every mistake, its figures are right, a short run works."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

import scalesocket
from tests.bench import crowd, parts, workers
from tests.bench.__main__ import choose, entrants, main, measure
from tests.bench.clients import (
    Account,
    ExactReader,
    FrameReader,
    Job,
    Reader,
    account,
    client_frames,
    deflate,
    make_json_payloads,
    make_payloads,
    server_frames,
)
from tests.bench.processes import OTHERS, THIS, BenchError, Peer, Program, find_program
from tests.bench.report import draw, format_scenario, format_verdicts
from tests.bench.scenarios import (
    MIB,
    SCENARIOS,
    TARGETS,
    Result,
    Scenario,
    Target,
    Verdict,
    best_peer,
    compare,
    judge,
    medians,
)
from tests.support import (
    BINARY,
    PATIENCE,
    PING,
    ROOT,
    TEXT,
    encode_client_frame,
    masked,
    require_tool,
)

JOB = Job("pour", 0, 0)
PAYLOADS = make_payloads(6, 64)


# ==== Accounts =============================================================


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 1, 2, 3], Account(4)),
        ([], Account(0, lost=4)),
        ([0, 1, 3], Account(3, lost=1)),
        ([0, 1, 1, 2, 3], Account(4, duplicated=1)),
        ([0, 2, 1, 3], Account(4, reordered=1)),
        ([3, 2, 1, 0], Account(4, reordered=3)),
        ([0, 1, None, 3], Account(3, lost=1, damaged=1)),
        ([0, 2, 1, 1, None], Account(3, lost=1, duplicated=1, reordered=1, damaged=1)),
    ],
)
def test_an_account_counts_every_mistake(numbers: list[int | None], expected: Account) -> None:
    assert account(4, numbers) == expected


def read(reader: Reader, data: bytes, step: int = 100) -> Account:
    """Let a reader take bytes in pieces, and account for the six messages."""
    for at in range(0, len(data), step):
        reader.take(memoryview(data)[at : at + step])
    return reader.account(PAYLOADS)


def frames(payloads: Sequence[bytes]) -> bytes:
    return server_frames(JOB, payloads)


READERS = [lambda: ExactReader(frames(PAYLOADS)), FrameReader]
ONE, TWO, *MORE = PAYLOADS


@pytest.mark.parametrize("make", READERS)
@pytest.mark.parametrize("step", [1, 7, 66, 1000])
@pytest.mark.parametrize(
    ("came", "expected"),
    [
        (PAYLOADS, Account(6)),
        ([], Account(0, lost=6)),
        ([ONE, *MORE], Account(5, lost=1)),
        ([ONE, TWO], Account(2, lost=4)),
        ([ONE, ONE, TWO, *MORE], Account(6, duplicated=1)),
        ([*PAYLOADS, ONE], Account(6, duplicated=1)),
        ([TWO, ONE, *MORE], Account(6, reordered=1)),
        ([ONE, TWO[:-1] + b"?", *MORE], Account(5, lost=1, damaged=1)),
        ([ONE + TWO, *MORE], Account(4, lost=2, damaged=1)),
    ],
)
def test_readers_account_for_what_came_however_it_was_cut(
    make: type[FrameReader], came: list[bytes], expected: Account, step: int
) -> None:
    assert read(make(), frames(came), step) == expected


def test_a_message_that_was_cut_off_is_lost() -> None:
    assert read(ExactReader(frames(PAYLOADS)), frames(PAYLOADS)[:-1]) == Account(5, lost=1)


def test_an_exact_reader_is_done_when_all_bytes_are_there() -> None:
    reader = ExactReader(frames(PAYLOADS))
    read(reader, frames(PAYLOADS))
    assert reader.progress == len(frames(PAYLOADS))


def test_control_frames_are_no_messages() -> None:
    ping = encode_client_frame(PING, b"are you there", mask=False)
    assert read(FrameReader(), ping.join([b"", frames(PAYLOADS), b""])) == Account(6)


@pytest.mark.parametrize("size", [125, 126, 65535, 65536])
def test_frames_of_every_length_are_walked(size: int) -> None:
    payloads = make_payloads(2, size)
    reader = FrameReader()
    reader.take(memoryview(frames(payloads)))
    assert (reader.payloads(), reader.progress) == (payloads, 2)


def test_binary_messages_may_be_cut_anew_but_not_changed() -> None:
    stream = b"".join(PAYLOADS)
    pieces = [stream[at : at + 100] for at in range(0, len(stream), 100)]
    whole = b"".join(encode_client_frame(BINARY, piece, mask=False) for piece in pieces)
    reader = FrameReader(by_bytes=True)
    assert read(reader, whole) == Account(6)
    assert reader.progress == len(stream)
    changed = whole.replace(b"00000003", b"00000002")
    assert read(FrameReader(by_bytes=True), changed) == Account(5, lost=1, damaged=1)


def test_compressed_messages_are_accounted_for() -> None:
    packed = b"".join(encode_client_frame(TEXT, deflate(p), rsv=4, mask=False) for p in PAYLOADS)
    assert read(FrameReader(), packed) == Account(6)


def test_json_messages_may_have_got_a_sender_but_no_other_text() -> None:
    payloads = make_json_payloads(3, 64, to=7)
    tagged = [payload.replace(b"{", b'{"_from":7,', 1) for payload in payloads]
    tagged[1] = tagged[1].replace(b"x", b"y")
    tagged[2] = tagged[2][:-1]
    reader = FrameReader()
    reader.take(memoryview(frames(tagged)))
    assert reader.account(payloads) == Account(1, lost=2, damaged=2)


def test_a_server_that_keeps_newlines_is_not_blamed_for_it() -> None:
    job = Job("pour", 0, 0, ending="\n")
    assert read(FrameReader(), server_frames(job, PAYLOADS)) == Account(6)


def test_frames_to_the_server_carry_the_messages_masked() -> None:
    frame = client_frames(JOB, PAYLOADS[:1])
    assert frame[:2] == bytes((0x81, 0x80 | 64))
    assert masked(frame[6:], frame[2:6]) == PAYLOADS[0]


# ==== Statistics and targets ===============================================


def rounds(*rates: float, **more: object) -> list[Result]:
    return [{"rate": rate, "complete": True, "note": "", **more} for rate in rates]


def test_medians_pass_over_rounds_without_the_figure() -> None:
    results = [{"rate": 5.0, "complete": True}, {"complete": False}, {"rate": 7, "p50": None}]
    assert medians(results) == {"rate": 6.0}


def test_ratios_are_taken_within_a_round() -> None:
    """All of a round suffer alike when the machine is busy with something else."""
    assert compare("rate", rounds(100, 10, 102), rounds(50, 5, 51)) == 2


def test_rounds_that_a_peer_did_not_finish_are_not_compared() -> None:
    assert compare("rate", rounds(100, 30), [{"complete": False}, *rounds(10)]) == 3


def test_the_best_peer_is_the_fastest_of_those_that_lose_nothing() -> None:
    found = {
        "this": rounds(9),
        "this tls": rounds(8),
        "slow": rounds(1),
        "good": rounds(2),
        "lossy": rounds(5, lost=1),
        "stuck": [{"rate": None, "complete": False}],
    }
    assert best_peer(found, Target("x", "rate", 1, "best", at_least=True)) == "good"
    assert best_peer({"this": rounds(9)}, Target("x", "rate", 1, "best", at_least=True)) == ""


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target("x", "rate", 2, "peer", at_least=True), True),
        (Target("x", "rate", 3, "peer", at_least=True), False),
        (Target("x", "rate", 2.5, "peer"), True),
        (Target("x", "rate", 19), False),
        (Target("x", "rate", 20), True),
        (Target("x", "rate", 4, "peer", at_least=True, other="y"), True),
        (Target("x", "rate", 2, "nobody", at_least=True), None),
        (Target("x", "rate", 2, "best", at_least=True), True),
        (Target("y", "rate", 2, "best", at_least=True), None),
        (Target("x", "p99", 2), None),
    ],
)
def test_targets_are_met_or_not_or_cannot_be_judged(target: Target, met: bool | None) -> None:
    results = {"x": {"this": rounds(20), "peer": rounds(10)}, "y": {"peer": rounds(5)}}
    assert judge(target, results).met is met


def test_a_target_is_not_met_by_losing_messages() -> None:
    results = {"x": {"this": rounds(20, 20, lost=1), "peer": rounds(10, 10)}}
    verdict = judge(Target("x", "rate", 2, "peer", at_least=True), results)
    assert (verdict.met, verdict.value, verdict.reason) == (False, 2, "not lossless")


def test_every_target_is_about_a_scenario_and_a_peer_that_exist() -> None:
    names = {scenario.name for scenario in SCENARIOS}
    peers = {"", "best", *(peer.name for peer in OTHERS)}
    for target in TARGETS:
        assert {target.scenario, target.other or target.scenario} <= names
        assert target.peer in peers


# ==== Who takes part =======================================================


def test_a_peer_takes_part_where_it_has_the_modes_and_the_rooms() -> None:
    programs = [Program(peer, (), "") for peer in (THIS, *OTHERS)]

    def names(scenario: str) -> list[str]:
        return [entrant.name for entrant in entrants(choose([scenario])[0], programs)]

    everyone = ["this", "scalesocket", "websocketd", "websocat", "websockets"]
    assert names("firehose") == everyone
    assert names("burst") == ["this", "scalesocket", "websockets"]
    assert names("json") == ["this", "scalesocket"]
    assert names("tls-echo") == ["this", "this tls"]
    both = ["this", "this compress", "scalesocket", "websockets", "websockets compress"]
    assert names("compress") == both


def test_scenarios_are_chosen_by_pattern() -> None:
    chosen = [scenario.name for scenario in choose(["closed-*", "echo"])]
    assert chosen == ["echo", "closed-10", "closed-200", "closed-1000"]
    assert choose([]) == list(SCENARIOS)


def test_a_peer_is_told_port_mode_and_program() -> None:
    peer = Peer("p", "P", ("--port={port}", "MODES", "TARGET", "--", "ARGUMENTS"), {"b": ("-b",)})
    arguments = peer.arguments(9000, ("b",), ("python3", "-c", "{}"))
    assert arguments == ["--port=9000", "-b", "python3", "--", "-c", "{}"]


def test_a_peer_that_cannot_be_had_is_left_out_with_the_reason(tmp_path: Path) -> None:
    refusal = "echo fetching; echo 'server answered 403 Forbidden'; echo bye; exit 1"
    peer = Peer("no-such-program", "", (), {}, installs=(refusal,))
    with pytest.raises(BenchError, match="not installed; server answered 403 Forbidden$"):
        find_program(peer, tmp_path)


def test_a_peer_is_installed_into_its_folder(tmp_path: Path) -> None:
    script = "printf '#!/bin/sh\\necho it 1.0' > bin/no-such-program && chmod +x bin/*"
    program = find_program(Peer("no-such-program", "", (), {}, installs=(script,)), tmp_path)
    assert program.command == (str(tmp_path / "bin" / "no-such-program"),)
    assert program.version == "it 1.0"


# ==== The report ===========================================================


def some_results() -> dict[str, dict[str, list[Result]]]:
    chance = random.Random(5)
    each: Result = {"lost": 0, "duplicated": 0, "reordered": 0, "damaged": 0, "received": 100}
    good = [each | {"rate": chance.uniform(1000, 2000), "complete": True} for _ in range(3)]
    busy = [result | {"generator": 0.9, "p99": 0.0015} for result in good]
    bad = [each | {"lost": 90, "received": 10, "complete": False, "note": "a <note> & more"}]
    names = [scenario.name for scenario in SCENARIOS]
    return {name: {"this": busy, "websocketd": good, "scalesocket": bad} for name in names}


def test_a_table_shows_medians_losses_and_what_the_generator_limits() -> None:
    scenario = SCENARIOS[1]
    lines = format_scenario(scenario, some_results()[scenario.name]).splitlines()
    ours, others, bad = (line.split() for line in lines[3:6])
    assert (ours[0], ours[-1]) == ("this", "90%!")
    assert others[-1] == "–"
    assert "90" in bad
    assert any("stopped in 1 of 1 rounds; messages that came: 10" in line for line in lines)


def test_verdicts_say_what_was_wanted_and_what_came_out() -> None:
    target = Target("echo", "p99", 0.003)
    ratio = Target("json", "rate", 3, "best", at_least=True, other="firehose")
    text = format_verdicts(
        [
            Verdict(target, "", 0.0045, False, ""),
            Verdict(ratio, "websocketd", 3.14159, True, ""),
            Verdict(ratio, "", 0.0, None, "no result of a lossless peer"),
        ]
    )
    words = [line.split() for line in text.splitlines()[-3:]]
    assert words[0] == "NOT MET echo: p99 ≤ 3 ms 4.5 ms".split()
    wanted = "json: rate ≥ 3 × the best lossless peer in firehose"
    assert words[1] == f"met {wanted} 3.142 × websocketd".split()
    assert words[2] == f"not judged {wanted} no result of a lossless peer".split()


def test_the_picture_is_well_formed_and_has_a_bar_for_each_result() -> None:
    picture = draw(some_results(), {"cpu": "A & B <fast>", "cores": "2"})
    root = ElementTree.fromstring(picture)
    bars = [element for element in root.iter() if element.tag.endswith("rect")]
    texts = " ".join(element.text or "" for element in root.iter())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(bars) == 6 * 2 + 2 * 1  # of two scenarios only the latency, which one entrant has
    assert "lost 90.0%, stopped in 1 of 1 rounds" in texts
    assert "2 × A & B <fast>" in texts
    height = float(root.attrib["viewBox"].split()[3])
    assert all(float(bar.attrib["y"]) + float(bar.attrib["height"]) < height for bar in bars)


def test_an_empty_run_has_an_empty_picture() -> None:
    assert ElementTree.fromstring(draw({}, {})) is not None


# ==== All of it ============================================================


@pytest.mark.slow
def test_a_short_run_measures_this_server(tmp_path: Path) -> None:
    file, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    scenarios = ["echo", "firehose", "burst", "json", "spawn"]
    options = [
        "--quick",
        "--peers=none",
        f"--cache={tmp_path}",
        f"--json={file}",
        f"--svg={picture}",
    ]
    command = [sys.executable, "-m", "tests.bench", *scenarios, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert list(figures["results"]) == ["echo", "firehose", "burst", "spawn", "json"]
    for entrant in figures["results"].values():
        [result] = entrant["this"]
        assert result["complete"] and result["rate"] > 0 and result["cpu"] > 0, result
        assert result["lost"] == result["duplicated"] == result["damaged"] == 0
        assert result["memory"] > 1 << 20
    assert figures["results"]["burst"]["this"][0]["received"] == 20 * 50
    assert "targets:" in done.stdout
    ElementTree.fromstring(picture.read_text())


FAULTY = """
import sys
for number, line in enumerate(sys.stdin):
    print(end=line * {3: 0, 5: 2}.get(number, 1))
"""


@pytest.mark.slow
def test_a_run_that_loses_messages_is_told_from_one_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program behind the server leaves out one message and says another twice."""
    sizes = {"count": 10, "quiet": 0.5}
    wrong = Scenario("firehose", "", "pour", sizes, backend=(sys.executable, "-uc", FAULTY))
    monkeypatch.setattr("tests.bench.__main__.choose", lambda patterns: [wrong])
    monkeypatch.setattr("tests.bench.__main__.raise_file_limit", lambda: None)
    file = tmp_path / "figures.json"
    status = main(["--rounds=1", "--peers=", f"--cache={tmp_path}", f"--json={file}"])
    [result] = json.loads(file.read_text())["results"]["firehose"]["this"]
    assert status == 1
    assert (result["lost"], result["duplicated"], result["received"]) == (1, 1, 9)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["cat >&2", "exit 3"])
def test_a_server_that_stops_does_not_hang_the_run(program: str, tmp_path: Path) -> None:
    options = argparse.Namespace(quick=False, cache=tmp_path)
    sizes = {"count": 10, "quiet": 0.5}
    silent = Scenario("x", "", "pour", sizes, backend=("sh", "-c", program))
    [entrant] = entrants(silent, [find_program(THIS, tmp_path)])
    result = measure(silent, entrant, options)
    assert (result["complete"], result["lost"], "rate" in result) == (False, 10, False)


# ==== The parts ===========================================================


def test_every_part_can_be_measured() -> None:
    named = dict(parts.parts(scalesocket))
    assert {"frame parsed", "JSON tagged", "fan-out to 200, without sending"} <= set(named)
    for work in named.values():
        work()
    assert parts.best(lambda: None) > 0


def test_the_parts_of_an_older_version_can_be_measured_beside_them() -> None:
    """It was not told that its lines are lines: there was no comparison."""

    class JsonFraming(scalesocket.JsonFraming):
        def __init__(self, *, delimiters: bytes, report: scalesocket.Report) -> None:
            assert delimiters == b"\n"
            super().__init__(report=report)

    older = SimpleNamespace(JsonFraming=JsonFraming, Messages=scalesocket.Messages)
    assert parts.tagger(older)() == parts.tagger(scalesocket)()


# ==== Workers =============================================================


@pytest.mark.slow
def test_two_rooms_can_be_measured_in_one_process_and_on_two_workers() -> None:
    with ProcessPoolExecutor(2) as pool:
        for _, *options in workers.LOADS.values():
            for more in ([], ["--workers=2"]):
                figures = workers.measure(pool, [*more, *options], 500)
                assert figures.lost == 0
                assert figures.rate > 0


def test_the_rooms_that_are_measured_belong_to_different_workers() -> None:
    assert {zlib.crc32(room.encode()) % 2 for room in workers.ROOMS} == {0, 1}


# ==== The crowd ===========================================================


@pytest.fixture
def generator() -> None:
    """See that the machine can build the load generator."""
    require_tool("cc")


@pytest.mark.slow
@pytest.mark.usefixtures("generator")
def test_a_crowd_is_measured_to_the_last_input(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = ["--quick", "--peers=seats,store", f"--cache={tmp_path}", f"--json={file}"]
    command = [sys.executable, "-m", "tests.bench.crowd", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert list(figures) == ["20", "40/20"]
    for result in (results[0] for peers in figures.values() for results in peers.values()):
        assert result["heard"] == result["sent"] > 0
        assert result["states"] > 0 and result["lost"] == 0
        assert 0 < result["p50"] <= result["p99"] <= result["max"]
        assert result["server_cpu"] > 0 and result["memory"] > MIB


FORGETFUL = """
from crowd_game import Crowd as Whole

class Crowd(Whole):
    all = 0

    def on_tick(self, dt):
        self.tick += self.tick == 5  # one state is never sent
        super().on_tick(dt)

    def on_message(self, client, message):
        self.all += 1
        self.heard += self.all % 10 > 0  # and some inputs are not heard
"""


@pytest.mark.slow
@pytest.mark.usefixtures("generator")
def test_a_crowd_that_misses_something_is_told_from_one_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    form = tuple(word.replace("crowd_game", "forgetful") for word in crowd.THIS.form)
    forgetful = replace(crowd.THIS, form=form)
    monkeypatch.setattr(crowd, "THIS", forgetful)
    for name in ("PYTHONPATH", "CROWD_RATE", "CROWD_SIZE", "CROWD_SAVED"):
        monkeypatch.setenv(name, "")  # so that it is put back
    file = tmp_path / "figures.json"
    options = ["20", "--quick", "--peers=none", f"--cache={tmp_path}", f"--json={file}"]
    assert crowd.main(options) == 1
    [result] = json.loads(file.read_text())["20"]["this"]
    assert result["gaps"] == 20
    assert result["heard"] < result["sent"]


def test_a_crowd_is_judged_by_its_worst_round() -> None:
    whole = {"delivered": 1.0, "p99": 0.06, "server_cpu": 0.5}
    part = {"delivered": 0.4, "p99": 0.09, "server_cpu": 1.0}
    node = {"server_cpu": 0.6}
    assert not any(
        "NOT" in x for x in crowd.judge({"1000": {"this": [whole] * 3, "ws": [node] * 3}})
    )
    lines = crowd.judge({"1000": {"this": [whole, part, part], "ws": [node] * 3}})
    assert [line.split()[:2] for line in lines] == [["NOT", "MET"]] * 3
    seated = crowd.judge({"1000": {"this": [whole] * 3, "seats": [node] * 3}})
    assert seated[-1].split()[:4] == ["NOT", "MET", "1000:", "seats:"]


@pytest.mark.parametrize("text", ["0", "20/", "x", "20/4/2"])
def test_what_is_no_crowd_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        crowd.main([text, "--peers=none"])
    assert repr(text) in capsys.readouterr().err


def test_what_measures_the_parts_tells_how_it_is_called() -> None:
    """It took `--help` for a file to measure, and ended with a traceback."""
    command = [sys.executable, "-m", "tests.bench.parts", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "FILE" in done.stdout
