"""What a team writes first: aiohttp, and aio-pika's publish awaited to its confirm, then the answer."""

import sys
from typing import Any

import aio_pika
import orjson
import uvloop
from aiohttp import web

OK = b'{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}'


async def answer(request: web.Request) -> web.Response:
    body = await request.read()
    event = orjson.loads(body)
    key = f"{request.query['CallbackCommand']}.{request.query['SdkAppid']}"
    message = aio_pika.Message(
        body,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        headers={"partitionkey": event["GroupId"]},
    )
    await request.app["exchange"].publish(message, key, mandatory=True)
    return web.Response(body=OK, content_type="application/json")


async def connect(app: web.Application) -> Any:
    connection = await aio_pika.connect_robust(sys.argv[2])
    channel = await connection.channel(publisher_confirms=True)
    app["exchange"] = await channel.get_exchange("bench.events")
    yield
    await connection.close()


app = web.Application()
app.router.add_post("/callback", answer)
app.cleanup_ctx.append(connect)
uvloop.install()
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
