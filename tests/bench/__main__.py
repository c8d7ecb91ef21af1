"""``make bench``: prints tables; needs a quiet machine. ARGS='--rounds 5 --seconds 8 --only gateway'."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

from tests.bench import chart, ingress, workers
from tests.services import Postgres, RabbitMQ


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8, help="of each peer in each round")
    parser.add_argument("--only", default="", help="only peers whose name has this")
    parser.add_argument("--part", choices=("ingress", "workers"), help="only this part")
    parser.add_argument("--events", type=int, default=40_000, help="that workers write in each round")
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where peers are installed")
    parser.add_argument("--json", type=Path, help="write all results into this file")
    parser.add_argument("--chart", type=Path, help="draw the callbacks a second into this PNG")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {cores} cores, load {load:.1f}", flush=True)
    rabbitmq = RabbitMQ()
    try:
        if given.part != "workers":
            results, said = ingress.measure(rabbitmq, folder, given.rounds, given.seconds, given.only)
            print(said, flush=True)
            if given.json:
                machine = {"python": platform.python_version(), "cores": cores, "load": load}
                given.json.write_text(json.dumps({**machine, "ingress": ingress.as_json(results)}, indent=1))
            if given.chart:
                print(chart.draw(results, folder, given.chart), flush=True)
        if given.part != "ingress":
            postgres = Postgres()
            try:
                print(workers.measure(rabbitmq, postgres, given.rounds, given.events))
            finally:
                postgres.close()
    finally:
        rabbitmq.close()


if __name__ == "__main__":
    main()
