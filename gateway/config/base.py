"""What all records of the configuration share."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _network(text: str) -> str:
    ipaddress.ip_network(text)  # its ValueError says what is wrong
    return text


Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
FieldName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", max_length=200)]
Cidr = Annotated[str, AfterValidator(_network)]
Patterns = Annotated[tuple[str, ...], Field(min_length=1)]


class Section(BaseModel):
    """Base of all records: unknown keys are errors, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
