"""HTTPS of the callback port: certificate, key and client CA, taken anew when their files change."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

from gateway.config import Listen
from gateway.errors import ConfigError

_log = logging.getLogger(__name__)
_Stamps = tuple[tuple[int, int, int], ...]


class Tls:
    """The TLS of ``listen``; ConfigError, naming the key, for files that can't be used.

    ``context`` is for handshakes that begin now; a new one takes its place when the files change. Filling a
    live one anew could leave it with half a pair, and would never drop an old client CA.
    """

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._stamps = _stamps(listen)
        self._said = ""
        self.context = make_context(listen)

    def look(self) -> None:
        """Take the files anew when they have changed; broken ones change nothing and are logged once."""
        stamps = _stamps(self._listen)
        if stamps == self._stamps and not self._said:
            return
        try:
            context = make_context(self._listen)
        except ConfigError as fault:
            if str(fault) != self._said:
                self._said = str(fault)
                _log.error("%s; the certificate read last stays in use", fault)
            return
        self._stamps, self.context, self._said = stamps, context, ""
        _log.info("listen.tls_cert: %s was read again; new connections use it", self._listen.tls_cert)


def make_context(listen: Listen) -> ssl.SSLContext:
    """Return a server context of the files named in *listen*; ConfigError for files that can't be used."""
    assert listen.tls_cert is not None
    assert listen.tls_key is not None
    cert = _readable("listen.tls_cert", listen.tls_cert)
    key = _readable("listen.tls_key", listen.tls_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Why a password: without one, OpenSSL would ask for it at the terminal.
        context.load_cert_chain(listen.tls_cert, listen.tls_key, password="-")  # noqa: S106
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(_pair_fault(listen, cert, key, error)) from None
    if listen.tls_client_ca is not None:
        _readable("listen.tls_client_ca", listen.tls_client_ca)
        try:
            context.load_verify_locations(cafile=listen.tls_client_ca)
        except (ssl.SSLError, OSError, ValueError):
            said = f"listen.tls_client_ca: {listen.tls_client_ca}: holds no readable PEM certificate"
            raise ConfigError(said) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _readable(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror or 'can not be read'}") from None


def _pair_fault(listen: Listen, cert: bytes, key: bytes, error: Exception) -> str:
    """Say which of the two files is at fault, without a word of what stands in them."""
    if b"-----BEGIN CERTIFICATE-----" not in cert:
        return f"listen.tls_cert: {listen.tls_cert}: holds no PEM certificate"
    if b"PRIVATE KEY-----" not in key:
        return f"listen.tls_key: {listen.tls_key}: holds no PEM private key"
    if b"ENCRYPTED" in key:
        return f"listen.tls_key: {listen.tls_key}: is encrypted; the gateway needs it without a passphrase"
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        return (
            f"listen.tls_key: {listen.tls_key}: is not the key of the first certificate in {listen.tls_cert},"
            " which must be the gateway's own"
        )
    reason = str(getattr(error, "reason", "") or "not readable").replace("_", " ").lower()
    return f"listen.tls_cert, listen.tls_key: can't be used together ({reason})"


def _stamps(listen: Listen) -> _Stamps:
    found = []
    for path in (listen.tls_cert, listen.tls_key, listen.tls_client_ca):
        try:
            stat = os.stat(path) if path is not None else None
        except OSError:
            stat = None
        found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat else (0, 0, 0))
    return tuple(found)
