"""An answer that an operator fixes for a before-callback. ``build.check`` holds it against the command."""

from __future__ import annotations

from typing import Any

from gateway.config.base import Section, Whole


class Answer(Section):
    """What Tencent gets instead of plain OK; keys that are left out are not sent."""

    code: Whole = 0
    info: str = ""
    refused_members: tuple[str, ...] | None = None
    msg_body: tuple[dict[str, Any], ...] | None = None
    cloud_custom_data: str | None = None
    rsp_data: str | None = None
    result_code: Whole = 0
    result_info: str = ""
