"""The port for operators: health, metrics, the console and its API."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from gateway.config.base import Host, Port, Section, Whole


class Admin(Section):
    """The port for health and metrics; ``gateway work`` has one of its own."""

    host: Host = "127.0.0.1"
    port: Port = 8081
    worker_port: Port = 8082
    token: SecretStr = SecretStr("")
    view_token: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _two_tokens(self) -> Admin:
        token, view = self.token.get_secret_value(), self.view_token.get_secret_value()
        # Why: without admin.token everybody may act, and a token that may less would only pretend.
        if view and view == token:
            raise ValueError("view_token: it has to differ from token, or everybody who sees may act too")
        if view and not token:
            raise ValueError("view_token: set token too; without it everybody may act")
        return self


class Console(Section):
    """The web page on the admin port."""

    show_content: bool = False
    silence_min: Annotated[Whole, Field(ge=0)] = 60
