"""What goes wrong with RabbitMQ, in our words: a fixed reason and a sentence on what it means."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from aiormq import exceptions as amqp

from gateway.errors import Unavailable


@contextmanager
def in_our_words() -> Iterator[None]:
    """Turn what goes wrong with a connection inside the block into Unavailable; cancelling still cancels."""
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task is not None else 0
    try:
        yield
    except asyncio.CancelledError as error:
        # Why: aiormq cancels the requests of a connection that it gives up, for silence, say. Nobody
        #      cancelled us then, and letting that pass would end the task, and the process with it.
        if task is None or task.cancelling():
            raise
        raise explain(error) from error
    # Why StopAsyncIteration: aiormq raises it when the other side closes right after it has accepted.
    except (amqp.AMQPError, OSError, RuntimeError, TimeoutError, StopAsyncIteration) as error:
        raise explain(error) from error
    # Why: asyncio.wait_for, by which aiormq closes a channel, swallows what cancels it as the answer comes.
    # Until: Python 3.12 is the oldest that is supported.
    if task is not None and task.cancelling() > cancelled_before:
        raise asyncio.CancelledError


def explain(error: BaseException) -> Unavailable:
    """Return Unavailable with a fixed reason and a sentence on what *error* means."""
    if isinstance(error, amqp.InvalidFrameError) and "Connection.Close" in str(error):
        # Why by its text: aiormq does not pass on what the server says when it refuses the virtual host.
        return Unavailable("no_vhost", _NO_VHOST)
    if isinstance(error, amqp.ChannelPreconditionFailed) and "delivery acknowledgement" in str(error):
        return Unavailable("held_too_long", _HELD_TOO_LONG)
    # Why the causes too: aiormq wraps what the system said into a connection error of its own.
    causes = [one for one in (error, error.__cause__, error.__context__) if one is not None]
    for kinds, reason, sentence in _MEANINGS:
        if any(isinstance(cause, kinds) for cause in causes):
            return Unavailable(reason, f"{sentence} ({_text(error)})")
    return Unavailable("connection_lost", f"the connection is gone ({_text(error)})")


_NO_VHOST = "RabbitMQ refuses the virtual host of broker.url: it does not exist, or the user may not enter it"
_HELD_TOO_LONG = (
    "events were held longer than RabbitMQ's consumer_timeout allows, so they come again: raise that, or"
    " lower the sink's write_timeout_s, hold_max_s or batch_max_events"
)
_MEANINGS: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    (
        (amqp.AuthenticationError, amqp.ProbableAuthenticationError),
        "bad_credentials",
        "RabbitMQ refuses the user name or password of broker.url",
    ),
    (
        (amqp.ConnectionNotAllowed,),
        "no_vhost",
        _NO_VHOST,
    ),
    ((ssl.SSLError,), "tls", "the TLS handshake failed: compare broker.tls_ca and the server's certificate"),
    ((TimeoutError,), "timeout", "no answer in time"),
    ((ConnectionRefusedError,), "refused", "nothing listens there: is RabbitMQ running?"),
    ((socket.gaierror,), "no_host", "the host name of broker.url is not known here"),
    (
        (amqp.IncompatibleProtocolError, amqp.InvalidFrameError),
        "not_amqp",
        "what listens there speaks no plain AMQP 0-9-1: is it the TLS port (amqps://), or another program?",
    ),
    (
        (amqp.ConnectionCommandInvalid,),
        "no_plugin",
        "RabbitMQ does not know an exchange of that kind: a plug-in is not enabled",
    ),
    ((amqp.ChannelAccessRefused,), "no_rights", "the user of broker.url lacks the rights"),
    ((amqp.ChannelNotFoundEntity,), "missing", "an exchange or queue is missing"),
    ((amqp.ChannelLockedResource,), "locked", "another connection holds it"),
    ((amqp.ChannelPreconditionFailed,), "mismatch", "RabbitMQ refuses the request"),
)


def _text(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
