"""RabbitMQ's management API, as far as the harness needs it: milliseconds where rabbitmqctl takes half a second."""

import base64
import contextlib
import http.client
import json

from tests.services.processes import HOST, ServerFailed

TIMEOUT_S = 30.0
AUTHORIZATION = "Basic " + base64.b64encode(b"guest:guest").decode()


def request(port: int, method: str, path: str, body: object = None) -> bytes:
    """Return the answer's body; raise ServerFailed with it unless the answer says success."""
    headers = {"Authorization": AUTHORIZATION, "Content-Type": "application/json"}
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)) as connection:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        answer = response.read()
    if response.status >= 300:
        raise ServerFailed(f"{method} {path} was answered {response.status}: {answer!r}")
    return answer
