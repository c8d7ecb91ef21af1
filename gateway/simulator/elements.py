"""Message elements as ``MsgBody`` holds them. Pure. Source: trtc.io/document/33527."""

from __future__ import annotations

from typing import Any

from gateway.simulator.draw import Draw


def elements(draw: Draw) -> list[dict[str, Any]]:
    """Return one element, sometimes several; most are text, as in life."""
    count = 1 if draw.happens(0.9) else 2 + draw.below(2)
    return [_element(draw) for _ in range(count)]


def _element(draw: Draw) -> dict[str, Any]:
    if draw.happens(0.7):
        return {"MsgType": "TIMTextElem", "MsgContent": {"Text": draw.text()}}
    name, make = draw.one_of(_KINDS)
    return {"MsgType": name, "MsgContent": make(draw)}


def _location(draw: Draw) -> dict[str, Any]:
    latitude, longitude = draw.below(1_800_000) / 1e4 - 90, draw.below(3_600_000) / 1e4 - 180
    return {"Desc": draw.text(), "Latitude": round(latitude, 4), "Longitude": round(longitude, 4)}


def _face(draw: Draw) -> dict[str, Any]:
    return {"Index": draw.below(100), "Data": f"tt{draw.below(100):02d}"}


def _custom(draw: Draw) -> dict[str, Any]:
    return {"Data": draw.custom(), "Desc": draw.text(), "Ext": "url", "Sound": "dingdong.aiff"}


def _sound(draw: Draw) -> dict[str, Any]:
    content = {
        "Url": draw.url("amr"),
        "UUID": draw.uuid(),
        "Size": draw.below(62_351),
        "Second": 1 + draw.below(60),
        "Download_Flag": 2,
    }
    if draw.happens(0.2):
        del content["Url"]  # old SDKs
    return content


def _image(draw: Draw) -> dict[str, Any]:
    sizes = ((1, 1920, 1080), (2, 960, 540), (3, 198, 111))
    return {
        "UUID": draw.uuid(),
        "ImageFormat": draw.one_of((1, 2, 3, 4, 255)),
        "ImageInfoArray": [
            {"Type": kind, "Size": width * 900, "Width": width, "Height": height, "URL": draw.url("jpg")}
            for kind, width, height in sizes
        ],
    }


def _file(draw: Draw) -> dict[str, Any]:
    name = draw.one_of(("报告 2026.pdf", "C:\\Users\\bob\\a.txt", "notes.md"))
    return {
        "Url": draw.url("bin"),
        "UUID": draw.uuid(),
        "FileSize": draw.below(2**32),
        "FileName": name,
        "Download_Flag": 2,
    }


def _video(draw: Draw) -> dict[str, Any]:
    return {
        "VideoUrl": draw.url("mp4"),
        "VideoUUID": draw.uuid(),
        "VideoSize": draw.below(10**8),
        "VideoSecond": 1 + draw.below(600),
        "VideoFormat": "mp4",
        "VideoDownloadFlag": 2,
        "ThumbUrl": draw.url("jpg"),
        "ThumbUUID": draw.uuid(),
        "ThumbSize": draw.below(14_000),
        "ThumbWidth": 720,
        "ThumbHeight": 1280,
        "ThumbFormat": "JPG",
        "ThumbDownloadFlag": 2,
    }


def _relay(draw: Draw) -> dict[str, Any]:
    content: dict[str, Any] = {
        "Title": "Chat history of 李雷",
        "MsgNum": 2,
        "CompatibleText": "Update to see the merged messages",
        "AbstractList": [f"leckie: {draw.text()}", f"jared: {draw.text()}"],
    }
    if draw.happens(0.3):
        content["JsonMsgKey"] = draw.uuid()
    else:
        text = {"MsgType": "TIMTextElem", "MsgContent": {"Text": draw.text()}}
        content["MsgList"] = [{"From_Account": "leckie", "MsgBody": [text]} for _ in range(2)]
    return content


_KINDS = (
    ("TIMLocationElem", _location),
    ("TIMFaceElem", _face),
    ("TIMCustomElem", _custom),
    ("TIMSoundElem", _sound),
    ("TIMImageElem", _image),
    ("TIMFileElem", _file),
    ("TIMVideoFileElem", _video),
    ("TIMRelayElem", _relay),
)
