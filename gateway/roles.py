"""Who may do what on the admin port: two tokens, and the cookies that a browser gets for them. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

_CONTEXT = b"im-callback-gateway console 1 "


class Role(StrEnum):
    """What a caller may do."""

    VIEW = "view"
    ACT = "act"


@dataclass(frozen=True, slots=True)
class Keys:
    """``admin.token`` and ``admin.view_token``; without the first everybody who gets here may act."""

    act: str = ""
    view: str = ""

    @property
    def is_open(self) -> bool:
        """No token is asked for."""
        return not self.act

    def of_token(self, given: str) -> Role | None:
        """Return the role of who shows the token *given*."""
        shown = given.encode("utf-8", "replace")
        found = None
        for role, token in self._tokens().items():
            if token and hmac.compare_digest(shown, token):
                found = role
        return found

    def of_bearer(self, header: str) -> Role | None:
        """Return the role of who sends *header* as ``Authorization``."""
        scheme, _, token = header.partition(" ")
        return self.of_token(token) if scheme == "Bearer" else None

    def cookie(self, role: Role, until_s: int) -> str:
        """Return what proves *role* until *until_s* (Unix); it ends with the token that it was made of."""
        return f"{role}.{until_s}.{self._seal(role, until_s)}"

    def of_cookie(self, text: str, now_s: float) -> Role | None:
        """Return the role that *text* proves at *now_s* (Unix)."""
        name, _, rest = text.partition(".")
        until, _, seal = rest.partition(".")
        if name not in tuple(Role) or not (until.isascii() and until.isdigit() and len(until) < 20):
            return None
        role, until_s = Role(name), int(until)
        is_ours = hmac.compare_digest(seal.encode("utf-8", "replace"), self._seal(role, until_s).encode())
        return role if is_ours and self._tokens()[role] and now_s < until_s else None

    def _seal(self, role: Role, until_s: int) -> str:
        return hmac.new(self._tokens()[role], _CONTEXT + f"{role}.{until_s}".encode(), "sha256").hexdigest()

    def _tokens(self) -> Mapping[Role, bytes]:
        return {Role.VIEW: self.view.encode(), Role.ACT: self.act.encode()}
