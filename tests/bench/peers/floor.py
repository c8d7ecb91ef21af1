"""aiohttp that reads a request and answers it, and keeps nothing: the floor."""

import sys

import uvloop
from aiohttp import web

OK = b'{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}'


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=OK, content_type="application/json")


app = web.Application()
app.router.add_post("/callback", answer)
uvloop.install()
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
