"""Nothing that only POSIX has is needed to import, start and serve.

A process in which those names are missing stands for such a system; what it cannot show is how
the other system's sockets and pipes behave.
"""

import sys
from pathlib import Path

from tests.support import SCRIPT, RawClient, serve

WITHOUT_POSIX = """
import argparse, email.utils, importlib.util, json, logging, mimetypes, os, pathlib, select
import selectors, shutil, signal, socket, subprocess, sys, tempfile, tomllib, uuid

for name in ("fcntl", "pty", "resource", "termios"):
    sys.modules[name] = None
for module, names in {
    os: "killpg pidfd_open set_blocking setsid waitid P_PID WEXITED WNOWAIT openpty",
    select: "poll POLLIN POLLOUT POLLHUP POLLERR POLLRDHUP",
    signal: "SIGKILL SIGHUP",
    socket: "MSG_DONTWAIT",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
pathlib.Path.__new__.__globals__["WindowsPath"] = pathlib.PosixPath
os.name = "nt"
sys.argv[0] = sys.argv.pop(1)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
import scalesocket
sys.exit(scalesocket.main())
"""


def test_serves_a_child_where_nothing_is_posix(tmp_path: Path) -> None:
    child = tmp_path / "upper.py"
    child.write_text("import sys\nfor line in sys.stdin: print(line.upper(), end='')\n")
    command = [sys.executable, "-c", WITHOUT_POSIX, str(SCRIPT)]
    with (
        serve(str(child), command=command) as server,
        RawClient.connect(server, "lobby") as one,
        RawClient.connect(server, "lobby") as two,
    ):
        one.send_text("hello")
        assert one.receive_text() == "HELLO"
        assert two.receive_text() == "HELLO"
        large = "x" * 900_000
        two.send_text(large)
        assert one.receive_text() == large.upper()
