"""The frames of a publish, read back by pamqp, which has its own idea of them."""

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec

from gateway.broker.rabbitmq.frames import publish_frames

names = st.text(max_size=60)
headers = st.dictionaries(
    st.text(min_size=1, max_size=20), st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1), st.booleans())
)


def unmarshal(data):
    frames = []
    while data:
        size, channel, frame = pamqp.frame.unmarshal(data)
        frames.append((channel, frame))
        data = data[size:]
    return frames


@given(
    st.integers(1, 65535), names, names, st.binary(max_size=50), headers, names, names,
    st.one_of(st.none(), st.integers(0, 2**40)), st.integers(1, 20),
)  # fmt: skip
def test_pamqp_reads_what_was_meant(
    channel, exchange, key, body, given_headers, message_id, kind, expiration_ms, most
):
    """Exchange, key, flags, properties, headers and the whole body."""
    data = publish_frames(channel, most, exchange, key, body, given_headers, message_id, kind, expiration_ms)
    (first, publish), (second, header), *parts = unmarshal(data)
    properties = header.properties

    assert {first, second, *(number for number, _ in parts)} == {channel}
    assert isinstance(publish, spec.Basic.Publish)
    assert (publish.exchange, publish.routing_key, publish.mandatory, publish.immediate) == (
        exchange,
        key,
        True,
        False,
    )
    assert (header.body_size, b"".join(part.value for _, part in parts)) == (len(body), body)
    assert all(0 < len(part.value) <= most for _, part in parts)
    assert (properties.content_type, properties.delivery_mode) == ("application/cloudevents+json", 2)
    assert (properties.message_id or "", properties.message_type or "") == (message_id, kind)
    assert properties.expiration == (None if expiration_ms is None else str(expiration_ms))
    assert properties.headers == given_headers


@pytest.mark.parametrize("place", ["exchange", "routing_key", "message_id", "kind"])
def test_a_name_longer_than_amqp_allows_is_an_error(place):
    """A cut one would be another name."""
    given_names = {"exchange": "x", "routing_key": "k", "message_id": "i", "kind": "t", place: "ä" * 128}

    with pytest.raises(ValueError, match="255 bytes"):
        publish_frames(1, 1000, body=b"", headers={}, **given_names)
