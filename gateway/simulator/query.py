"""The query string of a callback, spelled as Tencent spells it. Pure."""

from __future__ import annotations

from urllib.parse import quote

from gateway.signature import sign

# Source: the URL samples of the commands' own pages, read 2026-11.
_WITHOUT_CLIENT = frozenset(
    (
        "ContentCallback.ResultNotify",
        "Group.CallbackOnMemberStateChange",
        "Live.CallbackAfterChangeOwner",
        "Live.CallbackAfterMemberStateChanged",
        "Live.CallbackAfterModifyAdmin",
        "Push.AllMemberPush",
        "Push.OfflinePush",
    )
)
_WITHOUT_IP = frozenset(("Alert.RequestOverLimit",))
PLATFORMS = ("RESTAPI", "Web", "Android", "iOS", "Windows", "Mac", "iPad", "Unknown")


def query_of(command: str, app_id: str, client_ip: str, platform: str) -> str:
    """Return the unsigned query of *command*; *platform* is one of ``PLATFORMS``."""
    parts = [f"SdkAppid={app_id}", f"CallbackCommand={quote(command, safe='')}", "contenttype=json"]
    if command not in _WITHOUT_CLIENT:
        if command not in _WITHOUT_IP:
            parts.append(f"ClientIP={quote(client_ip, safe='')}")
        # Source: trtc.io/document/34354: this one command writes IOS, all others iOS.
        shown = "IOS" if platform == "iOS" and command == "State.StateChange" else platform
        parts.append(f"OptPlatform={shown}")
    return "&".join(parts)


def legacy_query_of(command: str, app_id: str) -> str:
    """Return the unsigned query of the old room and call engines, for a callback that REST caused.

    Source: cloud.tencent.com/document/product/1690/92699.
    """
    return (
        f"sdkappid={app_id}&command={quote(command, safe='')}"
        "&contenttype=json&clientip=0.0.0.0&optplatform=rest_api"
    )


def signed(query: str, token: str, now_s: int) -> str:
    """Return *query* with the Sign of *token* at *now_s* (Unix seconds); as it is when *token* is empty."""
    if not token:
        return query
    return f"{query}&Sign={sign(token, str(now_s))}&RequestTime={now_s}"
