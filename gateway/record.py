"""One journal record as bytes, and the search for the next good record after damage.

A record is a 24-byte header (magic, payload length, position, CRC of the payload, CRC of the header) and a
payload (format version, then the callback's fields). Both CRCs start from secret numbers of the journal, so
that a record that a stranger put into a body is never taken for one of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import NamedTuple
from zlib import crc32

from gateway.callback import Callback

VERSION = 1
# Why \xf5: it never occurs in UTF-8, so no JSON body holds the magic by chance.
MAGIC = b"\xf5IMr"
SALT_BYTES = 16
MAX_POSITION = 2**63 - 1
WINDOW_BYTES = 256 * 1024

_HEADER = Struct(">4sIQII")
_SEALED = Struct(">4sIQI")
_FIELDS = Struct(">BBHIqHHI")
HEADER_BYTES = _HEADER.size
_VERIFIED = 1


class Salt(NamedTuple):
    """The secret start values of a journal's checksums."""

    header: int
    payload: int

    @classmethod
    def of(cls, secret: bytes) -> Salt:
        """Derive both start values from *secret*, ``SALT_BYTES`` random bytes.

        Two independent halves: a forged record has to guess 64 bits, and nothing ever tells it one.
        """
        half = SALT_BYTES // 2
        return cls(crc32(secret[:half]), crc32(secret[half:]))


class Found(NamedTuple):
    """A good record: its *position*, where it starts and ends (byte offsets), and its payload."""

    position: int
    at: int
    end: int
    payload: bytes


class Gap(NamedTuple):
    """Bytes from offset *at* to *end* in which no good record starts."""

    at: int
    end: int


def pack(callback: Callback) -> bytes:
    """Return the payload that holds *callback*; raise ValueError when a field is out of range.

    ``app_id`` and ``peer`` take up to 64 KiB, ``query`` up to 4 GiB.
    """
    # Why surrogatepass: a query may hold lone surrogates (undecodable bytes) and must come out the same.
    app_id = callback.app_id.encode("utf-8", "surrogatepass")
    peer = callback.peer.encode("utf-8", "surrogatepass")
    query = callback.query.encode("utf-8", "surrogatepass")
    try:
        fields = _FIELDS.pack(
            VERSION,
            _VERIFIED if callback.verified else 0,
            callback.id_recipe,
            callback.id_window_s,
            callback.received_ms,
            len(app_id),
            len(peer),
            len(query),
        )
    except StructError as error:
        raise ValueError(f"callback does not fit a journal record: {error}") from error
    return b"".join((fields, app_id, peer, query, callback.body))


def unpack(payload: bytes) -> Callback:
    """Return the callback in *payload*, whose checksum matched; raise ValueError for another version."""
    version, flags, id_recipe, id_window_s, received_ms, app_end, peer_end, query_end = _FIELDS.unpack_from(
        payload
    )
    if version != VERSION:
        raise ValueError(f"journal record of format version {version}; this release reads {VERSION}")
    app_end += _FIELDS.size
    peer_end += app_end
    query_end += peer_end
    return Callback(
        app_id=payload[_FIELDS.size : app_end].decode("utf-8", "surrogatepass"),
        peer=payload[app_end:peer_end].decode("utf-8", "surrogatepass"),
        query=payload[peer_end:query_end].decode("utf-8", "surrogatepass"),
        body=payload[query_end:],
        received_ms=received_ms,
        verified=bool(flags & _VERIFIED),
        id_recipe=id_recipe,
        id_window_s=id_window_s,
    )


def header(position: int, payload: bytes, salt: Salt) -> bytes:
    """Return the header that stands in front of *payload* at *position* (1 to 2**63 - 1)."""
    sealed = _SEALED.pack(MAGIC, len(payload), position, crc32(payload, salt.payload))
    return sealed + crc32(sealed, salt.header).to_bytes(4, "big")


def encode(position: int, callback: Callback, salt: Salt) -> bytes:
    """Return the whole record of *callback* at *position*."""
    payload = pack(callback)
    return header(position, payload, salt) + payload


class Scanner:
    """Steps over the records of one file, or of any bytes, and over damage between them.

    ``fetch(at, count)`` returns up to *count* bytes from offset *at*; less only when there are no more.
    """

    __slots__ = ("_base", "_data", "_fetch", "_salt", "at")

    def __init__(self, fetch: Callable[[int, int], bytes], salt: Salt, at: int = 0) -> None:
        self._fetch = fetch
        self._salt = salt
        self._data = b""
        self._base = 0
        self.at = at

    def step(self, end: int, after: int = 0, before: int = MAX_POSITION + 1) -> Found | Gap | None:
        """Return what stands at ``self.at`` and move behind it; None when *end* is reached.

        A record counts only when it is complete before the byte offset *end* and its position lies between
        *after* and *before* (both exclusive): stale or forged bytes do not.
        """
        if self.at >= end:
            return None
        found = self.peek(self.at, end, after, before)
        if found is not None:
            self.at = found.end
            return found
        gap = Gap(self.at, self._resync(self.at + 1, end, after, before))
        self.at = gap.end
        return gap

    def pass_over(self, end: int, last: int, to: int) -> int:
        """Step over good records with the positions *last* + 1 to *to*, and return where that ended.

        It ends early at whatever is amiss, and where the bytes in memory end: ``step`` goes on from there.
        """
        # Why beside step: checking a journal of gigabytes takes a third of the time without its payloads.
        data, at = self._data, self.at - self._base
        if at < 0:
            return last
        view, stop, salt = memoryview(data), min(len(data), end - self._base), self._salt
        while last < to and at + HEADER_BYTES <= stop:
            magic, length, position, payload_crc, header_crc = _HEADER.unpack_from(data, at)
            payload = at + HEADER_BYTES
            if magic != MAGIC or position != last + 1 or payload + length > stop:
                break
            if crc32(view[at : at + _SEALED.size], salt.header) != header_crc:
                break
            if crc32(view[payload : payload + length], salt.payload) != payload_crc:
                break
            at, last = payload + length, position
        self.at = self._base + at
        return last

    def peek(self, at: int, end: int, after: int = 0, before: int = MAX_POSITION + 1) -> Found | None:
        """Return the good record that starts at the offset *at*, or None; does not move."""
        if not self._load(at, HEADER_BYTES, end):
            return None
        start = at - self._base
        magic, length, position, payload_crc, header_crc = _HEADER.unpack_from(self._data, start)
        if magic != MAGIC or not after < position < before:
            return None
        # Why first: a body full of magics costs one short checksum each, not one over what it claims.
        if crc32(self._data[start : start + _SEALED.size], self._salt.header) != header_crc:
            return None
        stop = at + HEADER_BYTES + length
        if not self._load(at, stop - at, end):
            return None
        start = at - self._base + HEADER_BYTES
        payload = self._data[start : start + length]
        if crc32(payload, self._salt.payload) != payload_crc:
            return None
        return Found(position, at, stop, payload)

    def _resync(self, at: int, end: int, after: int, before: int) -> int:
        """Return the offset of the first good record from *at* on, or *end*."""
        while self._load(at, HEADER_BYTES, end):
            place = self._data.find(MAGIC, at - self._base)
            if place < 0:
                # Why 3: the window may end inside a magic.
                at = self._base + len(self._data) - (len(MAGIC) - 1)
                continue
            at = self._base + place
            if self.peek(at, end, after, before) is not None:
                return at
            at += 1
        return end

    def _load(self, at: int, count: int, end: int) -> bool:
        """Make the window hold *count* bytes from *at*; False when they are not all before *end*."""
        if at + count > end:
            return False
        if at < self._base or at + count > self._base + len(self._data):
            self._data = self._fetch(at, min(max(count, WINDOW_BYTES), end - at))
            self._base = at
        return at + count <= self._base + len(self._data)
