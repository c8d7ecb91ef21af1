"""The topic patterns against RabbitMQ itself: what it routes is what we say it would."""

import random

import aio_pika

from gateway.topology import matches
from tests.rabbitmq_world import admin_channel

WORDS = ("im", "group", "a", "14", "", "*x")
PARTS = (*WORDS, "*", "*", "#", "#")


async def test_rabbitmq_routes_as_matches_says(amqp_url):
    """Random patterns and keys: ours decides what a worker passes over, so it may not be stricter or laxer."""
    chance = random.Random(20261125)
    patterns = {".".join(chance.choices(PARTS, k=chance.randrange(6))) for _ in range(120)}
    keys = sorted({".".join(chance.choices(WORDS, k=chance.randrange(6))) for _ in range(150)})
    async with admin_channel(amqp_url) as channel:
        exchange = await channel.declare_exchange("topics", "topic")
        queues = {}
        for pattern in sorted(patterns):
            queues[pattern] = await channel.declare_queue(exclusive=True)
            await queues[pattern].bind(exchange, pattern)
        for key in keys:
            await exchange.publish(aio_pika.Message(key.encode()), key, mandatory=False)
        routed = {pattern: await taken(queue) for pattern, queue in queues.items()}

    expected = {pattern: [key for key in keys if matches(pattern, key)] for pattern in queues}
    assert routed == expected
    assert sum(map(len, expected.values())) > 200


async def taken(queue):
    """Return the bodies of all messages in *queue*, whose publishes are confirmed."""
    found = []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        found.append(message.body.decode())
    return found
