"""The real HAProxy and nginx, configured by --print-config, in front of some nodes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from scalesocket.net.proxy_configs import print_config

from tests.support import PATIENCE, find_tool, free_port, http_request, wait_until

PROXY = "127.0.0.1"  # nodes see it come from there


def find(name: str) -> str:
    """Return the path of a proxy.

    Raises:
        AssertionError: it is not installed.
    """
    path = find_tool(name)
    assert path, f"{name} is not installed"
    return path


def write_haproxy(folder: Path, nodes: list[str], port: int) -> list[str]:
    """Write what --print-config prints, at a port of ours; return the command."""
    return write_haproxy_text(folder, print_config("haproxy", nodes), port)


def write_proxy_protocol(folder: Path, nodes: list[str], port: int) -> list[str]:
    """Write the variant that a comment of the configuration names."""
    text = print_config("haproxy", nodes).replace("    option forwardfor", "    #")
    return write_haproxy_text(
        folder, re.sub(r"(server \S+ \S+) id", r"\1 send-proxy-v2 id", text), port
    )


def write_haproxy_text(folder: Path, text: str, port: int) -> list[str]:
    changes = {
        "bind :80\n": f"bind {PROXY}:{port}\n",
        "expire 10s": "expire 1s",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    file = folder / "haproxy.cfg"
    file.write_text(text)
    return [find("haproxy"), "-db", "-f", os.fspath(file)]


def write_nginx(folder: Path, nodes: list[str], port: int) -> list[str]:
    """Write what --print-config prints, at a port of ours; return the command."""
    text = print_config("nginx", nodes)
    assert "listen 80;" in text
    (folder / "rooms.conf").write_text(text.replace("listen 80;", f"listen {PROXY}:{port};"))
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"    {name}_temp_path {folder}/{name};\n" for name in names)
    user = "user root;\n" if os.geteuid() == 0 else ""  # who may read pytest's folders
    file = folder / "nginx.conf"
    file.write_text(
        f"{user}daemon off;\npid {folder}/pid;\nerror_log stderr;\n"
        "events { worker_connections 8000; }\n"
        f"http {{\n    access_log off;\n{paths}    include {folder}/rooms.conf;\n}}\n"
    )
    return [find("nginx"), "-p", os.fspath(folder), "-c", os.fspath(file), "-e", "stderr"]


@contextlib.contextmanager
def proxy(kind: str, folder: Path, nodes: list[str]) -> Iterator[tuple[str, int]]:
    """Run a proxy in front of nodes; yield its address."""
    with running_proxy(kind, folder, nodes) as (_, address):
        yield address


@contextlib.contextmanager
def running_proxy(
    kind: str, folder: Path, nodes: list[str]
) -> Iterator[tuple[subprocess.Popen[bytes], tuple[str, int]]]:
    """Run a proxy in front of nodes; yield its process, too."""
    port = free_port(PROXY)
    write = {"haproxy": write_haproxy, "nginx": write_nginx, "v2": write_proxy_protocol}[kind]
    log = folder / f"{kind}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(write(folder, nodes, port), stdout=output, stderr=output)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError, AssertionError):
            return http_request((PROXY, port), path="/health").status == 200
        return False

    try:
        wait_until(answers)
        yield process, (PROXY, port)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
