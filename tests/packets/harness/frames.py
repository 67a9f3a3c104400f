"""Packets, defined once for both families, and what routing does to them."""

from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from tests.packets.harness.actors import HERE, Pod, family_of

ROUTER_MAC = "02:00:00:00:0f:01"


def ip(source: str, destination: str, ttl: int = 64, **fields: Any) -> Packet:
    if family_of(source) == 4:
        return IP(src=source, dst=destination, ttl=ttl, **fields)
    return IPv6(src=source, dst=destination, hlim=ttl, **fields)


def from_pod(pod: Pod, destination: str, layers: Packet, ttl: int = 64) -> Packet:
    """What a well-behaved pod sends."""
    return Ether(src=pod.mac, dst=pod.gateway_mac) / ip(pod.address(family_of(destination)), destination, ttl) / layers


def to_pod(source: str, pod: Pod, layers: Packet, ttl: int = 64) -> Packet:
    """What the host's stack sends down a pod's link, or another node through the tunnel."""
    return Ether(src=pod.gateway_mac, dst=pod.mac) / ip(source, pod.address(family_of(source)), ttl) / layers


def tunnelled(source: str, destination: str, layers: Packet, ttl: int = 63) -> Packet:
    """The inner frame of a tunnel packet: its MACs mean nothing."""
    return Ether(src="02:00:00:00:0e:01", dst="02:00:00:00:0e:02") / ip(source, destination, ttl) / layers


def echo(family: int, identifier: int = 7, sequence: int = 1) -> Packet:
    if family == 4:
        return ICMP(type=8, id=identifier, seq=sequence) / b"pilus"
    return ICMPv6EchoRequest(id=identifier, seq=sequence, data=b"pilus")


def echo_reply(family: int, identifier: int = 7, sequence: int = 1) -> Packet:
    if family == 4:
        return ICMP(type=0, id=identifier, seq=sequence) / b"pilus"
    return ICMPv6EchoReply(id=identifier, seq=sequence, data=b"pilus")


def tcp(sport: int, dport: int, flags: str = "S", payload: bytes = b"") -> Packet:
    return TCP(sport=sport, dport=dport, flags=flags, seq=1000, ack=2000) / payload


def udp(sport: int, dport: int, payload: bytes = b"pilus") -> Packet:
    return UDP(sport=sport, dport=dport) / payload


def raw(frame: Packet | bytes) -> bytes:
    return bytes(frame)


def routed(frame: Packet | bytes, *, to: Pod | None = None, hops: int = 1) -> bytes:
    """The frame one hop on: TTL one less, and the MACs of the pod's link where it goes into one."""
    done = Ether(bytes(frame))
    if to is not None:
        done.src, done.dst = to.gateway_mac, to.mac
    if done.haslayer(IP):
        done[IP].ttl -= hops
        del done[IP].chksum
    else:
        done[IPv6].hlim -= hops
    return bytes(done)


def router(family: int) -> str:
    return HERE.routers[family]
