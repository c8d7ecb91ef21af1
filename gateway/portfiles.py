"""What the callback port reads from files while it runs: tokens and TLS."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.config import Config
from gateway.metrics import Metrics
from gateway.ports import Https, max_handshakes
from gateway.receiver import Receiver
from gateway.rules import rules_of
from gateway.server import FrontServer
from gateway.tls import Tls
from gateway.tokens import TokenFiles

_LOOK_S = 1.0


class PortFiles:
    """Reads the files, gives *receiver* its rules, and both again on every change. Raises ConfigError."""

    def __init__(self, config: Config, receiver: Receiver, metrics: Metrics) -> None:
        self._config = config
        self._receiver = receiver
        self._tokens = TokenFiles(config.apps)
        self._tls = Tls(config.listen) if config.listen.tls_cert is not None else None
        receiver.rules = rules_of(config, self._tokens.tokens)
        self._expiry = metrics.certificate_expiry
        self._show_expiry()

    def https(self, server: FrontServer) -> Https | None:
        """Return how *server* is to speak HTTPS; None for plain HTTP."""
        if self._tls is None:
            return None
        tls = self._tls
        return Https(
            context=lambda: tls.context,
            admit=server.admit,
            dismiss=server.dismiss,
            failed=server.reports.handshake_failed,
            max_handshakes=max_handshakes(server.max_connections),
            patience_s=self._config.listen.header_timeout_s,
        )

    @property
    def signed(self) -> set[str]:
        """The apps whose callbacks need a Sign."""
        return {app_id for app_id, rule in self._receiver.rules.apps.items() if rule.is_signed}

    def configure(self, config: Config, tokens: TokenFiles) -> None:
        """Go by the apps of *config* and the *tokens* in their files from now on."""
        # Why only those with a file: an app that had tokens there must not become unsigned by an empty one.
        before = self._receiver.rules
        signed = {app_id: rule for app_id, rule in before.apps.items() if _has_file(config, app_id)}
        self._config, self._tokens = config, tokens
        self._receiver.rules = rules_of(config, tokens.tokens, replace(before, apps=signed))

    async def watch(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()

    def look(self) -> None:
        """Take what has changed."""
        if self._tokens.look():
            self._receiver.rules = rules_of(self._config, self._tokens.tokens, self._receiver.rules)
        if self._tls is not None:
            self._tls.look()
            self._show_expiry()

    def _show_expiry(self) -> None:
        if self._tls is not None and self._tls.validity is not None:
            self._expiry.labels("listen.tls_cert").set(self._tls.validity[1])


def _has_file(config: Config, app_id: str) -> bool:
    app = config.apps.get(app_id)
    return app is not None and app.tokens_file is not None
