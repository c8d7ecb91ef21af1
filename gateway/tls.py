"""HTTPS of the callback port: certificate, key and client CA, taken anew when their files change."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.config import Listen
from gateway.errors import ConfigError
from gateway.settled import Settled

_log = logging.getLogger(__name__)
_DAY_S = 86_400.0
_SOON_S = 7 * _DAY_S
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the standard library has no name for."""


class Tls:
    """The TLS of ``listen``; ConfigError, naming the key, for files that can't be used.

    ``context`` is for handshakes that begin now; a new one takes its place when the files change. Filling a
    live one anew could leave it with half a pair, and would never drop an old client CA.
    """

    def __init__(self, listen: Listen, now_s: Callable[[], float] = time.time) -> None:
        self._listen = listen
        self._now_s = now_s
        paths = (listen.tls_cert, listen.tls_key, listen.tls_client_ca)
        self._watch = Settled(*(path for path in paths if path is not None))
        self._said = ""
        self._next_note_s = now_s() + _DAY_S  # Why later: at the start the configuration's check has said it
        self.context = make_context(listen)
        self.validity = _validity(listen, self.context)
        """From when to when the certificate is valid, Unix seconds; None where that can't be told."""

    def look(self) -> None:
        """Take the files anew when they have changed and stand still; broken ones are logged once.

        A certificate that has expired, or soon will, is logged once a day.
        """
        self._take()
        said = self.complaint()
        if said and self._now_s() >= self._next_note_s:
            self._next_note_s = self._now_s() + _DAY_S
            _log.error("%s", said)

    def complaint(self) -> str:
        """Say what is wrong with the certificate at this time, "" for nothing."""
        if self.validity is None:
            return ""
        path, now_s = self._listen.tls_cert, self._now_s()
        begin_s, end_s = self.validity
        begin, end = (
            datetime.fromtimestamp(one, UTC).strftime("%Y-%m-%d %H:%M UTC") for one in self.validity
        )
        if now_s < begin_s:
            return f"listen.tls_cert: {path}: is valid from {begin} on, so callers refuse it until then"
        if now_s >= end_s:
            return f"listen.tls_cert: {path}: expired at {end}, so callers refuse it; renew it"
        # Why a third: some certificates live for a day, and are renewed in time all the same.
        if now_s >= end_s - min(_SOON_S, (end_s - begin_s) / 3):
            return f"listen.tls_cert: {path}: expires at {end}, and then callers refuse it; renew it"
        return ""

    def _take(self) -> None:
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
        self.validity, self._next_note_s = _validity(self._listen, context), 0.0
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


def _validity(listen: Listen, context: ssl.SSLContext) -> tuple[float, float] | None:
    # The standard library reads a certificate only as that of a peer, so one is made of it, in memory.
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.load_verify_locations(cafile=listen.tls_cert)
        client.verify_flags = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
        caller = client.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        for side in (caller, server, caller):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        found: dict[str, Any] = caller.getpeercert() or {}
        return ssl.cert_time_to_seconds(found["notBefore"]), ssl.cert_time_to_seconds(found["notAfter"])
    except (ssl.SSLError, OSError, ValueError, KeyError):
        return None


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
