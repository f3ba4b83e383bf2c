"""Who signs: a key and its certificates, made at first use, or one's own.

A folder holds ``key.pem``, a private key, and ``chain.pem``, its certificate followed by that of
who signed it. It is the one that is named, else ``$DIFFTALKER_CREDENTIALS``, else ``credentials``
in the user's configuration folder; a key is made in the last two when none is there.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from difftalker.core.files import whole_folder
from difftalker.errors import UsageError
from difftalker.marks.code import FIELD_BITS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder

KEY, CHAIN = "key.pem", "chain.pem"
VARIABLE = "DIFFTALKER_CREDENTIALS"
_YEARS = 20


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A key with its certificates."""

    folder: Path
    chain: str
    """PEM: the signer's certificate, then that of who signed it."""
    key: str
    """PEM: the private key; not encrypted."""
    algorithm: str
    """As C2PA names it: ``Ed25519``, ``ES256``, ``ES384``, ``ES512`` or ``PS256``."""
    maker: int
    """24 bits of the hash of the public key: who made a video, in its watermark."""

    @property
    def private(self) -> Any:
        """The private key as the package cryptography has it."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        return load_pem_private_key(self.key.encode(), None)

    @property
    def anchor(self) -> str:
        """PEM: the last certificate of the chain, which a verifier has to trust."""
        mark = "-----BEGIN CERTIFICATE-----"
        return mark + self.chain.rpartition(mark)[2]


def default_folder() -> Path:
    """Where the user's key lies."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if sys.platform == "win32":
        home = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    else:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "difftalker" / "credentials"


def identity(folder: str | Path | None = None) -> Identity:
    """The key in a folder; in the default one it is made at first use.

    Raises:
        UsageError: the folder lacks a file, a file is no key or certificate, they do not belong
            together, or the folder cannot be written.
    """
    place = Path(folder) if folder else default_folder()
    try:
        if not folder:
            _make_once(place)
        return _read(place)
    except OSError as error:
        raise UsageError(
            f"no key to sign with in {place}: {error.strerror}",
            wanted=f"a folder with {KEY} and {CHAIN}",
            fix="name one with --credentials, or leave it out and one is made",
        ) from error


def known(folder: str | Path | None = None) -> Identity | None:
    """The key in a folder as ``identity`` reads it; None where there is none. Nothing is made."""
    place = Path(folder) if folder else default_folder()
    return _read(place) if (place / KEY).exists() and (place / CHAIN).exists() else None


def _make_once(folder: Path) -> None:
    if (folder / KEY).exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / KEY).exists():
            with whole_folder(folder) as part:
                _make(part)


def _make(folder: Path) -> None:
    """Make a root and, signed by it, a key; the root's own key is thrown away."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID

    root, key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    root_name, name = "DiffTalker root of this user", "DiffTalker user"

    def root_facts(builder: CertificateBuilder) -> CertificateBuilder:
        return builder.add_extension(x509.BasicConstraints(True, None), True).add_extension(
            _usage(key_cert_sign=True, crl_sign=True), True
        )

    def key_facts(builder: CertificateBuilder) -> CertificateBuilder:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        return (
            builder.add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(_usage(digital_signature=True), True)
            .add_extension(purpose, False)
        )

    certificates = (
        _certificate(name, key, root_name, root, key_facts),
        _certificate(root_name, root, root_name, root, root_facts),
    )
    chain = b"".join(one.public_bytes(Encoding.PEM) for one in certificates)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / CHAIN).write_bytes(chain)
    descriptor = os.open(folder / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private)


def _usage(**wanted: bool) -> Any:
    from cryptography import x509

    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{**dict.fromkeys(names, False), **wanted})


def _certificate(
    name: str,
    key: Ed25519PrivateKey,
    issuer: str,
    issuer_key: Ed25519PrivateKey,
    facts: Callable[[CertificateBuilder], CertificateBuilder],
) -> Certificate:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        pairs = ((NameOID.COMMON_NAME, text), (NameOID.ORGANIZATION_NAME, "DiffTalker"))
        return x509.Name([x509.NameAttribute(*pair) for pair in pairs])

    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    public = issuer_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), False)
    )
    return facts(builder).sign(issuer_key, None)


def _read(folder: Path) -> Identity:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    key, chain = (folder / KEY).read_bytes(), (folder / CHAIN).read_bytes()
    wanted = "a private key in PEM without a password, and its certificate first in the chain"
    try:
        private, first = load_pem_private_key(key, None), x509.load_pem_x509_certificates(chain)[0]
    except (ValueError, TypeError, IndexError) as error:
        raise UsageError(f"{folder} holds no key to sign with: {error}", wanted=wanted) from error
    publics = [
        one.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for one in (private.public_key(), first.public_key())
    ]
    if publics[0] != publics[1]:
        raise UsageError(f"{KEY} and {CHAIN} in {folder} do not belong together", wanted=wanted)
    maker = int.from_bytes(hashlib.sha256(publics[0]).digest()[: FIELD_BITS // 8], "big")
    return Identity(
        folder=folder,
        chain=chain.decode(),
        key=key.decode(),
        algorithm=_algorithm(private),
        maker=maker,
    )


def _algorithm(private: object) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "Ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return "PS256"
    curves = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in curves:
        return curves[private.curve.name]
    raise UsageError(
        "a key of a kind that content credentials do not know",
        wanted="Ed25519, RSA, or elliptic curves P-256, P-384 or P-521",
    )
