"""Private instances of real servers for tests, from the distribution's packages.

Each instance has its own temporary folder, its own free ports on 127.0.0.1 and its own
supervisor process, which ends it when the test run ends, however that happens.
Servers of the machine are neither used nor disturbed.
"""

from tests.services.mariadb import MariaDB
from tests.services.postgres import Postgres
from tests.services.processes import ServerMissing
from tests.services.prometheus import Prometheus
from tests.services.rabbitmq import RabbitMQ
from tests.services.redis import Redis

__all__ = ["MariaDB", "Postgres", "Prometheus", "RabbitMQ", "Redis", "ServerMissing"]
