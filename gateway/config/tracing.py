"""Traces for OpenTelemetry: off unless a collector is named."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from gateway.config.base import File, Number, Section
from gateway.config.endpoints import Headers

_URL = re.compile(r"https?://[^@/\s]+(/[^?#\s]*)?")


class Tracing(Section):
    """Where spans go. Needs the extra ``otel``."""

    otlp_url: str = ""
    headers: Headers = Field(default_factory=dict[str, SecretStr])
    tls_ca: File | None = None
    sample_ratio: Annotated[Number, Field(ge=0, le=1)] = 1.0
    service_name: Annotated[str, Field(min_length=1, max_length=200)] = "im-callback-gateway"

    @field_validator("otlp_url")
    @classmethod
    def _readable(cls, url: str) -> str:
        if url and not _URL.fullmatch(url):
            raise ValueError(
                "must be like http://127.0.0.1:4318/v1/traces, without user and password; these are headers"
            )
        return url
