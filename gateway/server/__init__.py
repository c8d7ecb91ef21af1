"""The server of the callback port: HTTP/1.x by aiohttp's parser, with what a public port needs around it.

Deadlines, limits, and JSON for HTTP that is none. Knows nothing of callbacks: the receiver judges each
request, makes its answer, and is told what became of it.
"""

from gateway.server.front import FrontServer

__all__ = ["FrontServer"]
