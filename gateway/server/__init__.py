"""aiohttp's server with what a public port needs: deadlines, limits, JSON for HTTP that it refuses itself.

Knows nothing of callbacks. Handlers put the outcome of a request into ``response[OUTCOME]``; it is reported
once the answer is written or the caller turns out to be gone.
"""

from gateway.server.front import FrontServer

__all__ = ["FrontServer"]
