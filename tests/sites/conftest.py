"""What the tests of sites share: a root of a test's own, and a file that HTCondor takes for an X.509 proxy."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from htcdaskgateway.local import LocalSystemError, image

NAMESPACES = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture(scope="session")
def namespaces() -> list[str]:
    """The command before a program that runs in namespaces of its own, with containers in them."""
    tried = subprocess.run([*NAMESPACES, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"this machine allows no namespaces of a user's own: {tried.stderr.strip()}")
    try:
        image.sif()
    except LocalSystemError as error:
        pytest.skip(f"no image can be made here: {error}")
    return NAMESPACES


def make_proxy(path: Path) -> Path:
    """Write a file that HTCondor takes for an X.509 proxy."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alice")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    text = certificate.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    path.touch(0o600)
    path.write_bytes(text)
    return path


@pytest.fixture
def proxy(tmp_path, monkeypatch) -> Path:
    """An X.509 proxy, in force as ``X509_USER_PROXY``."""
    path = make_proxy(tmp_path / "proxy")
    monkeypatch.setenv("X509_USER_PROXY", str(path))
    return path


@pytest.fixture(scope="session")
def lasting_proxy(tmp_path_factory) -> Path:
    """An X.509 proxy for tests of a module."""
    return make_proxy(tmp_path_factory.mktemp("proxy") / "proxy")
