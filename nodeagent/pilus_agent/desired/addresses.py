"""Addresses as the kernel's keys have them. Pure."""

from pilus_agent.facts import Address, Network

WIDTH = 16


def raw(address: Address) -> bytes:
    """struct pilus_address: 16 bytes, IPv4 in the first four."""
    return address.packed.ljust(WIDTH, b"\0")


def family(address: Address | Network) -> int:
    """enum pilus_family."""
    return 4 if address.version == 4 else 6


def prefix(network: Network) -> dict[str, object]:
    """The record of a struct pilus_prefix."""
    return {"length": 32 + network.prefixlen, "family": family(network), "address": raw(network.network_address)}


def host_prefix(address: Address) -> dict[str, object]:
    return {"length": 32 + address.max_prefixlen, "family": family(address), "address": raw(address)}
