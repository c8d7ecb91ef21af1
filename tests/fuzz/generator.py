"""Bad input by seed: bodies made from the samples by their structure, and requests around them.

Each case has its own ``Random``, so that seed and number alone give it again. Nothing of the package is used
here but the making of a Sign.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from gateway.signature import sign

FOLDER = Path(__file__).parents[1] / "samples/callbacks"
TOKEN = "a-token-of-the-console"
REQUEST_TIME = "1669872112"  # fixed, so that a seed gives the same bytes tomorrow; the window is wide enough
OPEN_APP, SIGNED_APP = "1400000000", "1400000001"
MAX_BODY_BYTES = 2 * 1_048_576


class Pairs(list[list[Any]]):
    """A JSON object as a list of [key, value], so that keys may come twice."""


@dataclass(frozen=True)
class Raw:
    """Bytes that stand in JSON as they are, whether or not they may."""

    text: bytes


@dataclass
class Case:
    """What is sent over one connection."""

    name: str
    parts: list[bytes]
    pause_s: float = 0.0
    """Between the parts."""
    answers: int | None = None
    """How many must come, where the requests are well-formed."""
    hangs_up: bool = False
    """The caller goes without reading."""

    @property
    def sent(self) -> bytes:
        return b"".join(self.parts)


def load(text: str) -> Any:
    return json.loads(text, object_pairs_hook=lambda pairs: Pairs([key, value] for key, value in pairs))


SAMPLES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.json"))}
COMMANDS = list(SAMPLES)
KEYS = sorted({key for text in SAMPLES.values() for key in json.loads(text)})


def dump(node: Any) -> bytes:
    """Return the JSON text of *node*, as wrong as it is."""
    if isinstance(node, Raw):
        return node.text
    if isinstance(node, Pairs):
        return b"{" + b",".join(dump(key) + b":" + dump(value) for key, value in node) + b"}"
    if isinstance(node, list):
        return b"[" + b",".join(map(dump, node)) + b"]"
    if isinstance(node, str) and node.isprintable():
        return json.dumps(node, ensure_ascii=False).encode()
    return json.dumps(node).encode()


def nest(depth: int, inner: bytes = b"1") -> Raw:
    """Return arrays and objects in each other, *depth* deep."""
    return Raw(
        b'[{"a":' * (depth // 2) + b"[" * (depth % 2) + inner + b"]" * (depth % 2) + b"}]" * (depth // 2)
    )


NUMBERS = [
    b"0", b"-0", b"-1", b"1.5", b"1e5", b"2147483648", b"4294967296", b"9007199254740993", b"9223372036854775807",
    b"9223372036854775808", b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809", b"1e308",
    b"1e309", b"-1e400", b"1e-400", b"0.1e99999999", b"1" * 30, b"1" * 5000, b"-" + b"9" * 400,
    b"253402300799999", b"253402300800000", b"253402300800", b"1e20", b"123456789012345678901234567890.5",
]  # fmt: skip
NO_NUMBERS = [b"NaN", b"-Infinity", b"Infinity", b"01", b"+1", b".5", b"1.", b"0x10", b"1_000", b"--1", b"1e"]
TEXTS = [
    rb'"\u0000"', rb'"a\u0000b"', rb'"\ud800"', rb'"\udc00\ud800"', rb'"\ud83d\ude00"', rb'"\\ud800"', b'"\xff\xfe"',
    b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x80\xa8\xe2\x80\xa9"', b'"\xf0\x9f\x98\x80"',
    rb'"\n\r\t\b\f"', b'"a\nb"', b'"\x00"', b'"\x01"', b'"\xef\xbf\xbe\xef\xbf\xbf"', rb'"\ufffe\uffff\ufeff"', b'""',
    b'" "', b'"/"', b'"a/b//c"', b'"false"', b'"true"', b'"True"', b'"0"', b'"1e5"', b'"-1"', b'"null"', b'"[]"',
    b'"1670574414123"', b'"1670574414"', b'"9223372036854775808"', b'"99999999999999999999999"', b'"\xd9\xa1\xd9\xa2"',
    b'"\xc2\xb2"', b'"@TGS#_@TGS#x"', b'"../../etc/passwd"', b"\"' OR 1=1 --\"", b'"\xe2\x80\xae"', rb'"\u0085\u009f"',
    rb'"\x41"', rb'"\u12"', b'"open', b"'a'", rb'"\ud83d', b'"im.event.#"', b'"\x7f"', b'"%s%n{0}"',
]  # fmt: skip
ODD_KEYS = [
    b'""', b'" "', rb'"\u0000"', rb'"\ud800"', b'"\xff"', b'"raw"', b'"message"', b'"data"', b'"id"', b'"type"',
    b'"subject"', b'"envelope"', b'"actor"', b'"subjects"', b'"__proto__"', b'"reason"', b'"_"', b'"a.b"', b'"Member_"',
    b'"Member_Account"', b'"Operator_Account"', b'"callback_command"', b'"operator"', b'"Operator"', b'"members"',
    b'"EventTime"', b'"MsgTime"', b'"Events"', b'"MsgBody"', b"1", b"null", b"[]", b'"' + b"K" * 300 + b'"',
    b'"A_B_C"', b'"ABCdEF"', b'"\xc3\x84\xc3\x9f"', b'"unfit"', b'"CallbackCommand"', b'"From_Account"',
]  # fmt: skip


def odd(rng: Random) -> Any:
    """Return some value that a field would not expect."""
    kind = rng.randrange(12)
    if kind < 3:
        return Raw(rng.choice(TEXTS))
    if kind < 5:
        return Raw(rng.choice(NUMBERS))
    if kind == 5:
        return Raw(rng.choice(NO_NUMBERS))
    if kind == 6:
        return nest(rng.choice([1, 2, 5, 30, 60, 61, 62, 63, 64, 65, 66, 200, 3000]))
    if kind == 7:
        return rng.choice(["a", "é", "中", "😀", "\\", '"', "\u2028", "0", " "]) * rng.choice(
            [10, 255, 256, 5000, 70_000]
        )
    if kind == 8:
        return [odd(rng) for _ in range(rng.choice([0, 1, 2, 3, 20]))] if rng.random() < 0.5 else []
    if kind == 9:
        return Pairs(
            [Raw(rng.choice(ODD_KEYS)), rng.choice([1, "x", None, True])] for _ in range(rng.randrange(5))
        )
    return rng.choice(
        [None, True, False, 0, 1, -1, "", [], Pairs(), 1.5, "x", "1", ["x"], [None], [[]], [Pairs()]]
    )


def retyped(rng: Random, value: Any) -> Any:
    """Return *value* in another shape: its text, its number, alone in a list, its first item, turned around."""
    # Why a copy: a pair that also stands in a plain list would lose or double its half there, and be none here.
    value = deepcopy(value)
    ways: list[Callable[[], Any]] = [
        lambda: [value],
        lambda: [value, value],
        lambda: Pairs([["Member_Account", value]]),
        lambda: dump(value).decode("utf-8", "replace"),
        lambda: value[0] if isinstance(value, list) and value else None,
        lambda: (
            Raw(value.encode())
            if isinstance(value, str) and value.isdecimal()
            else dump(value).decode("utf-8", "replace")
        ),
        lambda: bool(value),
        lambda: list(reversed(value)) if isinstance(value, (list, str)) else value,
        lambda: value * 2 if isinstance(value, (list, str, int)) else value,
    ]
    return rng.choice(ways)()


def _mutate_tree(rng: Random, tree: Any) -> None:
    """Change one place of *tree*, which is an object or a list."""
    places: list[Any] = []
    stack: list[Any] = [tree]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            places.append(one)
            stack.extend(pair[1] for pair in one) if isinstance(one, Pairs) else stack.extend(one)
    holder = rng.choice([one for one in places if one] or [tree])
    if not holder:
        holder.append(["x", odd(rng)] if isinstance(holder, Pairs) else odd(rng))
        return
    at = rng.randrange(len(holder))
    how = rng.randrange(10)
    if isinstance(holder, Pairs):
        key, value = holder[at]
        if how < 3:
            holder[at] = [key, odd(rng)]
        elif how < 5:
            holder[at] = [key, retyped(rng, value)]
        elif how == 5:
            del holder[at]
        elif how == 6:
            holder.insert(rng.randrange(len(holder) + 1), [key, rng.choice([value, odd(rng)])])
        elif how == 7:
            names: list[Any] = [Raw(rng.choice(ODD_KEYS)), rng.choice(KEYS)]
            names += (
                [key.lower(), key.upper(), f"{key}_", f"_{key}", key + key] if isinstance(key, str) else []
            )
            holder[at] = [rng.choice(names), value]
        elif how == 8:
            holder.append([rng.choice([rng.choice(KEYS), Raw(rng.choice(ODD_KEYS))]), odd(rng)])
        else:
            other = load(rng.choice(list(SAMPLES.values())))
            holder.extend(rng.sample(other, min(len(other), 3)))
        return
    if how < 4:
        holder[at] = odd(rng)
    elif how < 6:
        holder[at] = retyped(rng, holder[at])
    elif how == 6:
        del holder[at]
    else:
        holder[:] = holder * rng.choice([2, 3, 34, 50, 51, 101])


def _mutate_bytes(rng: Random, body: bytes) -> bytes:
    """Break the text: cut, doubled, bytes changed, something put in, another encoding."""
    at, end = sorted((rng.randrange(len(body) + 1), rng.randrange(len(body) + 1)))
    how = rng.randrange(11)
    if how == 0:
        return body[:at]
    if how == 1:
        return body + body
    if how == 2:
        return body[:at] + body[end:]
    if how == 3:
        return body[:end] + body[at:]
    if how < 6:
        changed = bytearray(body)
        for _ in range(rng.choice([1, 1, 2, 10])):
            if changed:
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if how == 6:
        return (
            body[:at]
            + rng.choice([b"\x00", b"\xff", b"\xef\xbb\xbf", b"\n", b",", b"}", b"//x\n", b"\\", b'"'])
            + body[at:]
        )
    if how == 7:
        return b"\xef\xbb\xbf" + body
    if how == 8:
        return body.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-7"]))
    if how == 9:
        return rng.choice([b" ", b"\r\n", b"\t", b"\x0b", b"\x00"]) * rng.choice([1, 3, 1000]) + body + b"\n"
    return body.replace(b'"', b"'") if rng.random() < 0.3 else body.replace(b":", b" : \r\n")


def body_of(rng: Random) -> tuple[str, bytes]:
    """Return a command and a body that began as its sample."""
    command = rng.choice(COMMANDS)
    if rng.random() < 0.02:
        return command, rng.randbytes(rng.choice([0, 1, 10, 300]))
    tree = load(SAMPLES[command])
    for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3, 6])):
        _mutate_tree(rng, tree)
    if rng.random() < 0.01:
        tree.extend([f"k{at}", at] for at in range(rng.choice([1000, 20_000])))
    if command.startswith("Push.") and rng.random() < 0.3:
        tree.append(
            [
                "Events",
                [load(rng.choice(list(SAMPLES.values()))) for _ in range(rng.choice([0, 1, 3, 100, 101]))],
            ]
        )
    body = dump(tree)
    if rng.random() < 0.25:
        body = _mutate_bytes(rng, body)
    if rng.random() < 0.1:
        command = rng.choice(
            [
                rng.choice(COMMANDS),
                "",
                "X.New",
                "Group.",
                "Push.",
                command.lower(),
                "\x00",
                "A" * 300,
                "Ü.é",
                "Push.New",
            ]
        )
    return command, body[:MAX_BODY_BYTES]


def query_of(command: str, *, signed: bool = False) -> str:
    """Return the query as the sender writes it."""
    app = SIGNED_APP if signed else OPEN_APP
    query = f"SdkAppid={app}&CallbackCommand={quote(command, safe='')}&contenttype=json&ClientIP=1.2.3.4&OptPlatform=iOS"
    return f"{query}&Sign={sign(TOKEN, REQUEST_TIME)}&RequestTime={REQUEST_TIME}" if signed else query


def _odd_query(rng: Random, query: str) -> str:
    parts = query.split("&")
    how = rng.randrange(8)
    if how == 0:
        parts.append(rng.choice(parts))
    elif how == 1:
        del parts[rng.randrange(len(parts))]
    elif how == 2:
        parts.append(
            rng.choice(
                ["x=%ff%00", "%", "%zz=%u1234", "=", "a" * 3000, "ClientIP=%0d%0aX:1", "&&&", "x=\u00e9"]
            )
        )
    elif how == 3:
        parts = [part.swapcase() for part in parts]
    elif how == 4:
        rng.shuffle(parts)
    elif how == 5:
        at = rng.randrange(len(parts))
        parts[at] = (
            parts[at].partition("=")[0]
            + "="
            + rng.choice(["", "%F0%9F%98%80", "-1", "9" * 200, "%00", "%ED%A0%80"])
        )
    elif how == 6:
        parts = [part for part in parts if "Command" not in part]
    else:
        parts = ["command" + part[15:] if part.startswith("CallbackCommand") else part for part in parts]
    return "&".join(parts)


def _target(rng: Random, query: str, *, signed: bool) -> str:
    path = "/signed" if signed else "/callback"
    if rng.random() < 0.05:
        path = rng.choice(
            [
                "/",
                "//callback",
                "/callback/",
                "/%63allback",
                "*",
                "http://x/callback",
                "callback",
                "/é",
                "/\x7f",
            ]
        )
    return f"{path}?{query}" if query else path


def _chunked(rng: Random, body: bytes) -> bytes:
    framed = b""
    while body:
        size = rng.choice([1, 2, 7, 100, 5000, len(body)])
        framed += b"%x%s\r\n%s\r\n" % (
            len(body[:size]),
            rng.choice([b"", b"", b";x=y", b';q="a"']),
            body[:size],
        )
        body = body[size:]
    return framed + b"0\r\n" + rng.choice([b"", b"", b"X-Trailer: 1\r\n"]) + b"\r\n"


def request(
    target: str, body: bytes, *headers: str, method: str = "POST", framing: str | None = None
) -> bytes:
    """Return one request; *framing* stands for Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", "Host: x", framing or f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def _good(rng: Random) -> bytes:
    """Return one request that is well-formed HTTP, whatever it says."""
    command, body = body_of(rng)
    body = b"" if rng.random() < 0.02 else body
    signed = rng.random() < 0.3
    query = query_of(command, signed=signed)
    if rng.random() < 0.15:
        query = _odd_query(rng, query).replace("\u00e9", "%C3%A9")
    path = "/signed" if signed else "/callback"
    headers = rng.choice([[], [], ["Content-Type: text/plain"], ["X-Forwarded-For: 1.1.1.1", "Cookie: a=b"]])
    if rng.random() < 0.02:
        headers = [*headers, "Content-Encoding: " + rng.choice(["gzip", "br", "identity", "x, y"])]
    if rng.random() < 0.3:
        return request(f"{path}?{query}", _chunked(rng, body), *headers, framing="Transfer-Encoding: chunked")
    return request(f"{path}?{query}", body, *headers)


ABSURD_HEADERS: dict[str, bytes] = {
    "two lengths": b"Content-Length: 1\r\nContent-Length: 2",
    "same length twice": b"Content-Length: 3\r\nContent-Length: 3",
    "length list": b"Content-Length: 3, 3",
    "negative length": b"Content-Length: -1",
    "plus length": b"Content-Length: +3",
    "hex length": b"Content-Length: 0x3",
    "float length": b"Content-Length: 3.0",
    "empty length": b"Content-Length:",
    "long length": b"Content-Length: " + b"9" * 100,
    "length of 2^63": b"Content-Length: 9223372036854775808",
    "other digits": "Content-Length: ٣".encode(),
    "length and chunked": b"Content-Length: 3\r\nTransfer-Encoding: chunked",
    "chunked twice": b"Transfer-Encoding: chunked, chunked",
    "chunked then gzip": b"Transfer-Encoding: chunked, gzip",
    "unknown coding": b"Transfer-Encoding: x",
    "odd chunked": b"Transfer-Encoding: \x0bchunked",
    "no colon": b"X",
    "empty name": b": x",
    "space in name": b"X Y: 1",
    "space before colon": b"Content-Length : 3",
    "name of bytes": b"\xff\xfe: 1",
    "value of bytes": b"X: \xff\xfe\x80",
    "NUL": b"X: a\x00b",
    "NUL in name": b"X\x00Y: 1",
    "folded": b"X: a\r\n b",
    "bare CR": b"X: a\rY: b",
    "bare LF": b"X: a\nY: b",
    "long value": b"X: " + b"v" * 9000,
    "long name": b"N" * 9000 + b": 1",
    "many": b"\r\n".join(b"X-%d: 1" % at for at in range(200)),
    "very many": b"\r\n".join(b"X-%d: 1" % at for at in range(20_000)),
    "thousand times one": b"\r\n".join([b"X: 1"] * 1000),
    "upgrade": b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
    "odd connection": b"Connection: close, keep-alive, upgrade, \x01",
    "odd expect": b"Expect: 200-ok",
    "two hosts": b"Host: a\r\nHost: b",
    "odd host": b"Host: [::1]:99999999/../\xff",
    "odd type": b"Content-Type: multipart/form-data; boundary=" + b"b" * 500,
    "odd charset": b"Content-Type: application/json; charset=\xff",
    "ranges": b"Range: bytes=" + b"0-," * 1000,
    "gzip": b"Content-Encoding: gzip",
    "gzip twice": b"Content-Encoding: gzip\r\nContent-Encoding: identity",
    "cookie": b"Cookie: " + b"a=b;" * 1000,
    "forwarded": b"X-Forwarded-For: " + b"1.1.1.1," * 500,
}
ODD_CHUNKS = [
    b"ffffffffffffffffff\r\n{}", b"-1\r\n{}\r\n0\r\n\r\n", b"2 \r\n{}\r\n0\r\n\r\n", b"0x2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}0\r\n\r\n",
    b"2\n{}\n0\n\n", b"\r\n2\r\n{}\r\n0\r\n\r\n", b"2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n", b"3\r\n{}\r\n0\r\n\r\n",
    b"1\r\n{\r\n1\r\n}\r\n0\r\n" + b"T: x\r\n" * 500 + b"\r\n", b"7fffffff\r\n{}", b"2\r\n{}\r\n0\r\nbad trailer\r\n\r\n", b"g\r\n",
]  # fmt: skip
NOISE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n",
    b"GET /\r\n\r\n", b"POST /callback HTTP/1.1\nHost: x\n\n", b"SSH-2.0-x\r\n", b"*1\r\n$4\r\nPING\r\n", b"\x00" * 5000, b"A" * 20_000,
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"GET  / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b" GET / HTTP/1.1\r\n\r\n",
    b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n\x16\x03", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    b"GET /callback HTTP/1.0\r\n\r\n", b"TRACE /callback HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 100 + b"\r\n\r\n",
]  # fmt: skip


def with_header(lines: bytes, body: bytes = b"{}", *, is_framed: bool = False) -> bytes:
    """Return a request with *lines* among its headers, framed by them when *is_framed*."""
    head = f"POST /callback?{query_of('Group.CallbackAfterMemberExit')} HTTP/1.1\r\nHost: x\r\n".encode()
    length = b"" if is_framed else b"Content-Length: %d\r\n" % len(body)
    return head + length + lines + b"\r\n\r\n" + body


def _cut_up(rng: Random, sent: bytes, most: int) -> list[bytes]:
    cuts = sorted({0, len(sent), *(rng.randrange(len(sent) + 1) for _ in range(rng.randrange(1, most)))})
    return [sent[start:end] for start, end in pairwise(cuts)]


def http_case(rng: Random) -> Case:
    """Return what is sent over one connection."""
    how = rng.random()
    if how < 0.35:
        return Case("one", [_good(rng)], answers=1)
    if how < 0.45:
        number = rng.choice([2, 3, 8])
        return Case("pipelined", [b"".join(_good(rng) for _ in range(number))], answers=number)
    if how < 0.53:
        number = rng.choice([1, 2])
        parts = _cut_up(rng, b"".join(_good(rng) for _ in range(number)), 6)
        return Case("in pieces", parts, pause_s=0.005, answers=number)
    if how < 0.6:
        sent = _good(rng)
        return Case("cut", [sent[: rng.randrange(len(sent))]], hangs_up=rng.random() < 0.7)
    if how < 0.63:
        return Case("slow body", _cut_up(rng, _good(rng), 4), pause_s=0.6)
    if how < 0.66:
        return Case("gone before the answer", [_good(rng) * rng.choice([1, 3])], hangs_up=True)
    if how < 0.76:
        sent = bytearray(_good(rng))
        end = sent.find(b"\r\n\r\n") + 4 if rng.random() < 0.8 else len(sent)
        for _ in range(rng.choice([1, 1, 2, 5, 30])):
            sent[rng.randrange(end)] = rng.choice([rng.randrange(256), *b"\r\n :%\x00"])
        return Case("bytes changed", [bytes(sent)])
    if how < 0.86:
        name = rng.choice(list(ABSURD_HEADERS))
        lines = [
            ABSURD_HEADERS[name],
            *(ABSURD_HEADERS[rng.choice(list(ABSURD_HEADERS))] for _ in range(rng.choice([0, 0, 1]))),
        ]
        return Case(
            f"header {name}",
            [with_header(b"\r\n".join(lines), is_framed=rng.random() < 0.7) + rng.choice([b"", _good(rng)])],
        )
    if how < 0.9:
        lines = b"Transfer-Encoding: chunked"
        return Case("odd chunks", [with_header(lines, rng.choice(ODD_CHUNKS), is_framed=True)])
    if how < 0.95:
        return Case(
            "noise",
            [rng.choice([*NOISE, rng.randbytes(rng.choice([1, 50, 3000]))]) + rng.choice([b"", _good(rng)])],
        )
    method = rng.choice(
        ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "post", "X", "M-SEARCH", "PATCH", "A" * 100, "P\u00d6ST"]
    )
    signed = rng.random() < 0.3
    target = _target(rng, _odd_query(rng, query_of(rng.choice(COMMANDS), signed=signed)), signed=signed)
    return Case("odd line", [request(target, rng.choice([b"", b"{}", b"[]"]), method=method)])
