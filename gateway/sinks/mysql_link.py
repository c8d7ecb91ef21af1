"""One connection to MySQL or MariaDB as the mysql sink needs it. Blocks: used on one thread, cut from any."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import pymysql

from gateway.config import MysqlSink
from gateway.errors import Unavailable
from gateway.sinks.batches import place_of
from gateway.sinks.mysql_errors import PACKET_TOO_LARGE, unavailable

_CONNECT_TIMEOUT_S = 10.0
# Why strict: a value that does not fit would be cut or become 0, with a warning that nobody reads.
_SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"


class Link:
    """An open connection: text is utf8mb4, times are UTC, nothing is durable before ``commit``."""

    def __init__(self, config: MysqlSink, program: str) -> None:
        """Connect. Raises Unavailable, OSError or pymysql's errors."""
        self.is_usable = True
        self.most_bytes = 1_048_576
        dsn = _Dsn.of(config)
        self._connection = pymysql.Connection(
            host=dsn.host, port=dsn.port, user=dsn.user, password=dsn.password, database=dsn.database,
            charset="utf8mb4", sql_mode=_SQL_MODE, autocommit=False, program_name=program[:63],
            read_timeout=config.write_timeout_s, write_timeout=config.write_timeout_s, defer_connect=True,
            ssl=_tls(config), ssl_disabled=config.tls == "never",
            auth_plugin_map={} if config.tls in ("require", "verify") else _NO_PLAIN_PASSWORD,
        )  # fmt: skip
        sock = socket.create_connection((dsn.host, dsn.port), min(_CONNECT_TIMEOUT_S, config.write_timeout_s))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Why a copy: TLS takes the socket itself over.
        self._lever = sock.dup()
        try:
            self._log_in(sock)
            # Why the lock's timeout: a session whose client is gone would wait on, and hold up the next one.
            # Why the other: a queue may be quiet for longer than the hours after which servers hang up.
            self.run(
                "SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = %s, wait_timeout = 31536000",
                (max(1, int(config.write_timeout_s)),),
            )
            # Why: the default level also locks the gaps between keys, which is how two inserts deadlock.
            self.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            self.most_bytes = int(self.rows("SELECT @@max_allowed_packet")[0][0])
        except BaseException:
            sock.close()
            self.close()
            raise

    def _log_in(self, sock: socket.socket) -> None:
        try:
            self._connection.connect(sock)
        except RuntimeError as error:  # the driver's word for a way to log in that takes another library
            raise Unavailable("no_rights", f"MySQL: the login can't be made: {error}") from error

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        """Run one statement, *values* in the places of its ``%s``; return how many rows it changed."""
        with self._connection.cursor() as cursor:
            statement = cursor.mogrify(sql, values) if values else sql
            # Why here: the server would only close the connection.
            if 4 * len(statement) >= self.most_bytes and len(statement.encode()) >= self.most_bytes:
                raise pymysql.err.DataError(PACKET_TOO_LARGE, "larger than the server's max_allowed_packet")
            return int(cursor.execute(statement))

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return what the query *sql* found."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall())

    def commit(self) -> None:
        """Make durable what was run since the last commit or rollback."""
        self._connection.commit()

    def rollback(self) -> None:
        """Undo what was run since the last commit or rollback."""
        self._connection.rollback()

    def cut(self) -> None:
        """End the connection from another thread: what waits for the server there fails at once."""
        self.is_usable = False
        with suppress(OSError):  # Why: the other side may have done it
            self._lever.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Say goodbye and free everything; safe on a connection that is lost, and to call again."""
        self.is_usable = False
        with suppress(pymysql.err.Error):
            self._connection.close()
        self._lever.close()


class _PasswordKept:
    """Ends a login in which the server wants the password itself: whoever answers would have it."""

    def __init__(self, connection: object) -> None:
        pass

    def authenticate(self, packet: object) -> NoReturn:
        raise Unavailable(
            "no_rights",
            "MySQL: the server wants the password unencrypted, and may be another one than it says. That"
            " takes tls: verify, or tls: require",
        )


_NO_PLAIN_PASSWORD: dict[str, Callable[[pymysql.Connection[Any]], Any]] = {
    "mysql_clear_password": _PasswordKept,
    "dialog": _PasswordKept,
}


@contextmanager
def errors_in_our_words(where: str) -> Iterator[None]:
    """Raise Unavailable for what goes wrong inside with the connection or the server."""
    try:
        yield
    except (OSError, pymysql.err.MySQLError) as error:
        raise unavailable(error, where) from error


@dataclass(frozen=True, slots=True)
class _Dsn:
    host: str
    port: int
    user: str
    password: bytes
    database: str

    @classmethod
    def of(cls, config: MysqlSink) -> _Dsn:
        dsn = config.dsn.get_secret_value()
        try:
            url = urlsplit(dsn)
            port = url.port or 3306
            is_whole = ("@" in url.netloc) == ("@" in dsn)  # else a part of the password looks like a path
            if url.scheme not in ("mysql", "mariadb") or not url.hostname or not is_whole:
                raise ValueError
        except ValueError:
            # Why no message of Python's: it may quote a part of the password as the port, say.
            raise Unavailable(
                "unreachable",
                f"MySQL {place_of(config.dsn)}: the DSN is not usable; its form is"
                " mysql://user:password@host:3306/database, with %40 for @ and %2F for / in the password.",
            ) from None
        user, password = unquote(url.username or ""), unquote(url.password or "")
        return cls(url.hostname, port, user, password.encode(), unquote(url.path[1:]))


def _tls(config: MysqlSink) -> ssl.SSLContext | None:
    """Return how TLS is made; None leaves it to the driver: where the server offers it, or never."""
    if config.tls in ("prefer", "never"):
        return None
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
        if config.tls == "require":
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if config.tls_cert is not None:
            context.load_cert_chain(config.tls_cert, config.tls_key)
    except OSError as error:  # ssl's own errors among them
        raise Unavailable(
            "tls_files", f"tls_ca, tls_cert, tls_key: not usable ({error.strerror or type(error).__name__})."
        ) from error
    return context
