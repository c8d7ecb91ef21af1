"""mq-bridge (Rust): HTTP in, AMQP out, confirmed."""

import sys

from mq_bridge import Route

port, url = sys.argv[1:]
Route.from_config(
    {
        "input": {"http": {"url": f"127.0.0.1:{port}", "concurrency_limit": 512}},
        "output": {
            "amqp": {"url": url, "exchange": "bench.events", "queue": "bench.queue", "no_declare_queue": True}
        },
        "concurrency": 4,
    }
).run()
