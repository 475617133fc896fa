"""--print-config: what it prints is what HAProxy, nginx, Kubernetes and systemd want to read."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from scalesocket.net.peers import Peer
from scalesocket.net.proxy_configs import CONFIGS, DRAIN, haproxy_ids, print_config

import scalesocket
from scalesocket import ConfigError
from tests.bench.scenarios import SCENARIOS
from tests.proxies import PROXY, write_haproxy
from tests.support import (
    ROOT,
    SCRIPT,
    RawClient,
    free_port,
    http_request,
    require_package,
    require_tool,
    run_cli,
    serve,
    wait_until,
)

NODES = ["10.0.0.1:9000", "node-2.example:9001", "[::1]:9002"]


@pytest.mark.slow
def test_it_is_printed_and_nothing_is_served() -> None:
    for kind in CONFIGS:
        done = run_cli("--print-config", kind, *NODES)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == print_config(kind, NODES)
        assert not re.search(r"@[A-Z]+@", done.stdout)
        lines = done.stdout.splitlines()
        assert max(len(line) for line in lines if "--peers" not in line) <= 110


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["apache", "a:1"], "'apache'"),
        (["haproxy"], "wants nodes"),
        (["nginx"], "wants nodes"),
        (["nginx", "a"], "'a'"),
        (["nginx", "a:0"], "'a:0'"),
        (["nginx", "a:70000"], "'a:70000'"),
        (["nginx", "a;}:1"], "'a;}:1'"),
        (["nginx", "a..b:9000"], "'a..b:9000'"),
        (["haproxy", f"{64 * 'a'}:1"], "aaa:1'"),
        (["haproxy", "[:::]:9000"], "'[:::]:9000'"),
        (["haproxy", "a:1\nbind :1"], "a:1"),
        (["haproxy", "a:1", "a:1"], "twice"),
        ([], "expected at least one argument"),
    ],
)
def test_what_cannot_be_printed_is_named(arguments: list[str], named: str) -> None:
    done = run_cli("--print-config", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_the_folder_net_it_says_so(tmp_path: Path) -> None:
    shutil.copy(SCRIPT, tmp_path)
    command = [sys.executable, os.fspath(tmp_path / "scalesocket.py"), "--print-config", "systemd"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "net/" in done.stderr


def test_a_script_cannot_ask_for_it(tmp_path: Path) -> None:
    script = tmp_path / "game.py"
    script.write_text('# /// script\n# [tool.scalesocket]\n# print-config = "nginx"\n# ///\n')
    with pytest.raises(ConfigError, match="print-config"):
        scalesocket.parse_command_line([str(script)])


def test_the_words_about_scaling_name_what_there_is() -> None:
    text = (ROOT / "net" / "SCALING.md").read_text(encoding="utf-8")
    known = {
        name
        for rows in scalesocket.list_options().values()
        for row in rows
        for name in row[0].split()
    }
    of_benchmarks = {"--rounds", "--peers", "--seconds", "--warm-up"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) <= known | of_benchmarks
    command = re.search(r"tests\.bench --peers none --rounds 3 \\\n(.*)", text)
    assert command
    assert set(command[1].split()) <= {scenario.name for scenario in SCENARIOS}
    measured = re.findall(r"\| (`[^|]*`) \|$", text, re.MULTILINE)
    sources = {name for cell in measured for name in re.findall(r"`([^`:]+)`", cell)}
    assert sources <= {*command[1].split(), "tests.bench.proxies"}


# ==== HAProxy and nginx ===================================================


@pytest.mark.parametrize(
    ("node", "named"),
    [
        ("cafe:9000", True),
        ("db1.de:9000", True),
        ("node-2.example:9000", True),
        ("10.0.0.1:9000", False),
        ("[2001:db8::cafe]:9000", False),
    ],
)
def test_haproxy_looks_up_names_again_whatever_letters_they_have(node: str, named: bool) -> None:
    """A name of hexadecimal digits passed for an address: a node that moved was never found."""
    text = print_config("haproxy", [node])
    assert ("none resolvers system " in text) is named
    assert ("\nresolvers system\n" in text) is named


def test_haproxy_finds_no_fault_with_it(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(
        print_config("haproxy", ["10.0.0.1:9000", "nowhere.invalid:9001", "[::1]:9002"])
    )
    command = [require_tool("haproxy"), "-c", "-f", os.fspath(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert all("nowhere.invalid" in line for line in warnings)  # it would start without that node


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1024, 20_000])
def test_haproxy_starts_with_the_descriptors_that_there_are(tmp_path: Path, limit: int) -> None:
    """Case 28: with `maxconn 100000` it did not start where a process may have 20,000 files."""
    require_tool("haproxy")
    port = free_port(PROXY)
    limited = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
    with serve("cat") as node, (tmp_path / "log").open("wb") as log:
        command = write_haproxy(tmp_path, [f"{node.host}:{node.port}"], port)
        with subprocess.Popen([*limited, *command], stdout=log, stderr=log) as haproxy:
            try:
                wait_until(lambda: haproxy.poll() is not None or is_healthy((PROXY, port)))
                assert haproxy.poll() is None, (tmp_path / "log").read_text()
                with RawClient.connect((PROXY, port)) as client:
                    client.send_text("hello")
                    assert client.receive_text() == "hello"
            finally:
                haproxy.terminate()


def is_healthy(address: tuple[str, int]) -> bool:
    with suppress(OSError, AssertionError):
        return http_request(address, path="/health").status == 200
    return False


def test_a_node_keeps_its_place_on_the_ring_whatever_the_list() -> None:
    ids = haproxy_ids(NODES)
    assert len(set(ids.values())) == len(NODES)
    assert all(0 < number < 1 << 20 for number in ids.values())
    assert haproxy_ids(NODES[::-1]) == ids
    assert haproxy_ids(NODES[1:]).items() <= ids.items()
    many = [f"10.{n >> 8}.{n & 255}.1:9000" for n in range(5000)]  # some share a number at first
    assert len(set(haproxy_ids(many).values())) == 5000


def test_nginx_finds_no_fault_with_it(tmp_path: Path) -> None:
    nginx = require_tool("nginx")
    (tmp_path / "rooms.conf").write_text(print_config("nginx", ["10.0.0.1:9000", "[::1]:9002"]))
    temporary = "client_body proxy fastcgi uwsgi scgi".split()
    paths = "".join(f"    {name}_temp_path {tmp_path}/{name};\n" for name in temporary)
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\n"
        f"http {{\n    access_log off;\n{paths}    include {tmp_path}/rooms.conf;\n}}\n"
    )
    command = [nginx, "-t", "-p", os.fspath(tmp_path), "-c", os.fspath(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


# ==== Kubernetes ==========================================================


def manifests() -> dict[str, dict[str, object]]:
    return {item["kind"]: item for item in yaml.safe_load_all(print_config("kubernetes", NODES))}


def test_kubernetes_schemas_find_no_fault_with_it() -> None:
    kubernetes_validate = require_package("kubernetes_validate")
    found = manifests()
    assert set(found) == {"Service", "StatefulSet", "PodDisruptionBudget", "Ingress"}
    for item in found.values():
        kubernetes_validate.validate(item, "1.37", strict=True)
    found["StatefulSet"]["spec"]["replica"] = 3  # type: ignore[index]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found["StatefulSet"], "1.37", strict=True)


def test_the_manifests_belong_together() -> None:
    """What no schema knows: names that must be the same, and times that must suffice."""
    found = manifests()
    stateful: dict[str, object] = found["StatefulSet"]["spec"]  # type: ignore[assignment]
    template = stateful["template"]
    assert isinstance(template, dict)
    pod, labels = template["spec"], template["metadata"]["labels"]
    (container,) = pod["containers"]
    service = found["Service"]
    assert stateful["serviceName"] == service["metadata"]["name"]  # type: ignore[index]
    assert stateful["replicas"] == len(NODES)
    assert service["spec"]["clusterIP"] == "None"  # type: ignore[index]
    assert service["spec"]["selector"] == labels  # type: ignore[index]
    budget = found["PodDisruptionBudget"]["spec"]
    assert budget["selector"]["matchLabels"] == labels  # type: ignore[index]
    assert stateful["selector"] == {"matchLabels": labels}
    (port,) = container["ports"]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": port["name"]}
    assert "httpGet" not in container["livenessProbe"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    slack = pod["terminationGracePeriodSeconds"] - pause - DRAIN
    assert slack >= scalesocket.END_TIMEOUT + scalesocket.CLOSE_TIMEOUT
    config = scalesocket.parse_command_line(container["args"])
    assert config.addr == (("0.0.0.0", port["containerPort"]),)
    assert config.drain == DRAIN and len(config.peers) == len(NODES)
    for peer in config.peers:
        assert Peer(peer).name.endswith(f".scalesocket:{port['containerPort']}")


# ==== systemd =============================================================


def test_the_units_belong_together() -> None:
    text = print_config("systemd", ["a:9005"])
    files = re.split(r"^# /etc/systemd/system/(\S+)$", text, flags=re.MULTILINE)[1:]
    units = {}
    for name, body in zip(files[::2], files[1::2], strict=True):
        units[name] = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",))
        units[name].optionxform = str  # type: ignore[assignment, method-assign]
        units[name].read_string(body)
    assert set(units) == {"scalesocket.socket", "scalesocket.service"}
    assert units["scalesocket.socket"]["Socket"]["ListenStream"] == "9005"
    service = units["scalesocket.service"]["Service"]
    assert units["scalesocket.service"]["Unit"]["Requires"] == "scalesocket.socket"
    assert int(service["TimeoutStopSec"]) > scalesocket.END_TIMEOUT + scalesocket.CLOSE_TIMEOUT
    assert service["KillMode"] == "mixed"
    program, script, *options = service["ExecStart"].split()
    assert Path(program).name == "python3" and script == "scalesocket.py"
    config = scalesocket.parse_command_line(options)
    assert config.drain == 0  # the queue of the socket would wait for it
