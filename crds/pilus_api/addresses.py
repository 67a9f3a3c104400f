"""Addresses and prefixes as people write them.

In: text. Out: networks of the standard library. Never: names, lookups.
"""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from pilus_api.errors import InvalidError

Network = IPv4Network | IPv6Network

# The longest prefix: eight groups of four digits, seven colons, /128.
MAX_PREFIX_TEXT = 43


def parse_prefix(text: str) -> Network:
    """`address/length`; bits behind the length are cut off. Raises InvalidError."""
    address, slash, length = text.partition("/")
    # The standard library takes netmasks, scopes and lengths such as +8 as well, which the API server refuses.
    if not slash or not (length.isascii() and length.isdigit()) or "%" in address or (len(length) > 1 and length[0] == "0"):
        raise InvalidError(f"{text!r} is not a prefix such as 10.0.0.0/8 or fd00::/64")
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidError(f"{text!r} is not a prefix such as 10.0.0.0/8 or fd00::/64") from error


def parse_address_or_prefix(text: str) -> Network:
    """A prefix, or one address as the prefix of its full length. Raises InvalidError."""
    if "/" in text:
        return parse_prefix(text)
    try:
        if "%" in text:
            raise ValueError("scope")
        return ip_network(ip_address(text))
    except ValueError as error:
        raise InvalidError(f"{text!r} is neither an address nor a prefix") from error
