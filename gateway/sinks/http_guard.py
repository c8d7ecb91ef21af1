"""Where the http sink may connect: nowhere inside one's own network unless the configuration says so.

Looked at is the very address that a socket is made for, so neither a name nor a redirect leads around it.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from gateway.networks import Address, Network, address_of

# What no service of the public Internet has. Source: the IANA special-purpose address registries, read
# 2026-11. Why a table: Python's own is_global has changed from one patch release to the next.
_NOT_PUBLIC_4 = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
    "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    "168.63.129.16/32",  # Azure's wire server, which hands out credentials
)  # fmt: skip
_PUBLIC_6 = (
    "2000::/3"  # all that is given out; loopback, unique-local, link-local and multicast are not in it
)
_NOT_PUBLIC_6 = ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Forbidden(OSError):
    """The address is not a public one, and no network of ``allow_networks`` has it."""

    def __init__(self, address: object) -> None:
        super().__init__(
            errno.EACCES,
            f"{address} is no public address; if the service is yours, name its network in allow_networks",
        )


class Guard:
    """Makes the sockets of one sink."""

    def __init__(self, allow_networks: Sequence[str]) -> None:
        self._allowed = tuple(ipaddress.ip_network(text) for text in allow_networks)

    def socket(self, found: tuple[Any, Any, Any, Any, tuple[Any, ...]]) -> socket.socket:
        """Return a socket for *found*, an answer of getaddrinfo. Raises Forbidden."""
        family, kind, protocol, _, place = found
        self.check(place[0])
        return socket.socket(family, kind, protocol)

    def check(self, text: str) -> None:
        """Raise Forbidden unless one may connect to the address *text*."""
        try:
            address = address_of(text)
        except ValueError:
            raise Forbidden(text) from None
        behind = _behind_nat64(address)
        if not (_is_public(behind) or _is_in(self._allowed, address) or _is_in(self._allowed, behind)):
            raise Forbidden(address)


def _behind_nat64(address: Address) -> Address:
    """Return the IPv4 address that a NAT64 gateway makes of *address*; any other address as it is."""
    if isinstance(address, ipaddress.IPv6Address) and address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not _is_in(_REFUSED_4, address)
    return address in _GIVEN_OUT_6 and not _is_in(_REFUSED_6, address)


def _is_in(networks: Sequence[Network], address: Address) -> bool:
    return any(address in network for network in networks)


_REFUSED_4 = tuple(map(ipaddress.IPv4Network, _NOT_PUBLIC_4))
_REFUSED_6 = tuple(map(ipaddress.IPv6Network, _NOT_PUBLIC_6))
_GIVEN_OUT_6 = ipaddress.IPv6Network(_PUBLIC_6)
