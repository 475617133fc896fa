"""Certificates for tests of TLS, made by `openssl`; the fixture `certs` gives them."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

# ==== Certificates ========================================================
# Two authorities, a server's certificate and its successor, and a client's of each authority.


@dataclass(frozen=True)
class Certificates:
    """Where the files are: NAME.pem is a certificate, NAME.key its key."""

    folder: Path

    def cert(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    def key(self, name: str) -> str:
        return str(self.folder / f"{name}.key")

    def options(self, name: str = "server") -> tuple[str, ...]:
        """Return what makes a server speak TLS."""
        return "--sslcert", self.cert(name), "--sslkey", self.key(name)

    def trust(self, name: str | None = None) -> ssl.SSLContext:
        """Return a client's context, with its own certificate if it has a name."""
        context = ssl.create_default_context(cafile=self.cert("authority"))
        if name is not None:
            context.load_cert_chain(self.cert(name), self.key(name))
        return context


def run_openssl(folder: Path, *arguments: str) -> None:
    """Run the `openssl` command; skip without it, or fail when CI is set."""
    command = shutil.which("openssl")
    if command is None and os.environ.get("CI"):
        pytest.fail("missing tool: openssl")
    if command is None:
        pytest.skip("missing tool: openssl")
    subprocess.run([command, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def make_authority(folder: Path, name: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-subj", f"/CN=Test {name}", "-days", "3", "-keyout", f"{name}.key")
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    run_openssl(folder, "req", "-x509", *key, *names, *usage, "-out", f"{name}.pem")


def make_certificate(folder: Path, name: str, authority: str, usage: str) -> None:
    """Let an authority sign a certificate for `usage`: serverAuth or clientAuth."""
    (folder / f"{name}.ext").write_text(
        "basicConstraints=critical,CA:FALSE\n"
        "keyUsage=critical,digitalSignature\n"
        f"extendedKeyUsage={usage}\n"
        "subjectKeyIdentifier=hash\n"
        "authorityKeyIdentifier=keyid\n"
        "subjectAltName=DNS:localhost,IP:127.0.0.1\n"
    )
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
    run_openssl(folder, "req", "-new", *key, "-subj", f"/CN={name}", *files)
    signer = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial")
    files = ("-in", f"{name}.csr", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    run_openssl(folder, "x509", "-req", "-days", "2", *signer, *files)


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder, "authority")
    make_authority(folder, "stranger")
    make_certificate(folder, "server", "authority", "serverAuth")
    make_certificate(folder, "renewed", "authority", "serverAuth")
    make_certificate(folder, "client", "authority", "clientAuth")
    make_certificate(folder, "intruder", "stranger", "clientAuth")
    return Certificates(folder)
