"""Whose request it is: the peer, or whom a trusted proxy says it forwards for; and who may come at all."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Some proxies write the port too: 192.0.2.1:4711, [2001:db8::1]:4711.
_WITH_PORT = re.compile(r"\[(?P<six>[^\]]*)\](?::[0-9]+)?|(?P<four>[0-9.]+):[0-9]+")
_MAPPED_BITS = 96


@dataclass(frozen=True, slots=True)
class Networks:
    """``listen.allow_networks`` and ``listen.trusted_proxies``; an empty first one allows all."""

    allowed: tuple[Network, ...]
    trusted: tuple[Network, ...]

    @classmethod
    def of(cls, allowed: Sequence[str], trusted: Sequence[str]) -> Networks:
        """Return the networks of two lists in CIDR notation; ValueError for what is none."""
        return cls(tuple(map(_network, allowed)), tuple(map(_network, trusted)))

    def caller(self, peer: str, forwarded: Sequence[str] = ()) -> str:
        """Return the caller's address; Refused("forbidden_network") when it may not come.

        *peer* is the connection's other end, *forwarded* the values of X-Forwarded-For in their order. What
        stands left of the caller there was written by the caller, so nobody looks at it.
        """
        if not self.allowed and not self.trusted:
            return plain(peer)
        try:
            address = address_of(peer)
            if self._is_in(self.trusted, address):
                address = self._behind(address, forwarded)
        except ValueError:
            raise Refused("forbidden_network") from None
        if self.allowed and not self._is_in(self.allowed, address):
            raise Refused("forbidden_network")
        return str(address)

    def is_proxy(self, peer: str) -> bool:
        """Say whether *peer* is a trusted proxy."""
        try:
            return bool(self.trusted) and self._is_in(self.trusted, address_of(peer))
        except ValueError:
            return False

    def _behind(self, proxy: Address, forwarded: Sequence[str]) -> Address:
        found = proxy
        for entry in reversed(",".join(forwarded).split(",")):
            # Why: an empty element of a list says nothing (RFC 9110, 5.6.1).
            if not (text := entry.strip()):
                continue
            match = _WITH_PORT.fullmatch(text)
            found = address_of((match["six"] or match["four"] or "") if match else text)
            if not self._is_in(self.trusted, found):
                break
        return found

    @staticmethod
    def _is_in(networks: tuple[Network, ...], address: Address) -> bool:
        return any(address in network for network in networks)


def address_of(text: str) -> Address:
    """Return the address; ``::ffff:192.0.2.1`` is IPv4. ValueError for what is none.

    A zone (``fe80::1%eth0``) is left out: it is any text, and says nothing beyond this machine.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def plain(text: str) -> str:
    """Return *text*, an IPv4 address written as IPv6 in its own spelling."""
    if ":" not in text:
        return text
    try:
        return str(address_of(text))
    except ValueError:
        return text


def _network(text: str) -> Network:
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network(f"{mapped}/{network.prefixlen - _MAPPED_BITS}")
    return network
