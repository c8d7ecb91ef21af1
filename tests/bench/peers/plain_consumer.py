"""What a team writes first: aio-pika's queue, one insert and one ack an event."""

import asyncio
import sys

import aio_pika
import asyncpg
import orjson
import uvloop


async def main(url: str, dsn: str, queue_name: str) -> None:
    database = await asyncpg.connect(dsn)
    connection = await aio_pika.connect_robust(url)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=1000)
    queue = await channel.get_queue(queue_name)
    async with queue.iterator() as messages:
        async for message in messages:
            event = orjson.loads(message.body)
            await database.execute(
                "INSERT INTO plain (source, id, event) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                event["source"], event["id"], message.body.decode(),
            )  # fmt: skip
            await message.ack()


uvloop.install()
asyncio.run(main(*sys.argv[1:]))
