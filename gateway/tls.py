"""HTTPS of the callback port: certificate, key and client CA, taken anew when their files change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from gateway.config import Listen
from gateway.errors import ConfigError
from gateway.settled import Settled

_log = logging.getLogger(__name__)


class Tls:
    """The TLS of ``listen``; ConfigError, naming the key, for files that can't be used.

    ``context`` is for handshakes that begin now; a new one takes its place when the files change. Filling a
    live one anew could leave it with half a pair, and would never drop an old client CA.
    """

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        paths = (listen.tls_cert, listen.tls_key, listen.tls_client_ca)
        self._watch = Settled(*(path for path in paths if path is not None))
        self._said = ""
        self.context = make_context(listen)

    def look(self) -> None:
        """Take the files anew when they have changed and stand still; broken ones are logged once."""
        if not self._watch.look():
            self._said = ""
            return
        try:
            context = make_context(self._listen)
        except ConfigError as fault:
            if str(fault) != self._said:
                self._said = str(fault)
                _log.error("%s; the certificate read last stays in use", fault)
            return
        self._watch.take()
        self.context, self._said = context, ""
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
