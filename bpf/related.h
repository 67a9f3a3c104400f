/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors: one passes if the packet that it speaks of is of a connection that we know, and the one who hears of it is the
 * one who sent that packet. It makes no entry and refreshes none.
 */
#pragma once
#include "flow.h"

pilus_always bool pilus_is_error(u8 protocol, u8 type)
{
	if (protocol == PILUS_IPPROTO_ICMP)	/* unreachable, time exceeded, parameter problem: RFC 792 */
		return type == 3 || type == 11 || type == 12;
	return type >= 1 && type <= 4;		/* and too big: RFC 4443 */
}

/* The packet in an error: its connection's key as seen by the error, and where its layer-4 header is. */
struct pilus_inner {
	struct pilus_flow_key key;
	u32 l4_offset;
};

/* The inner packet went the other way: its reply's entry would be in this zone. */
pilus_always bool pilus_read_inner(struct __sk_buff *skb, const struct pilus_packet *packet, struct pilus_inner *inner)
{
	u32 offset = packet->l4_offset + 8;
	struct pilus_flow_key key = { .zone = packet->zone, .family = packet->family };
	u8 l4[8];

	if (!pilus_is_error(packet->protocol, packet->icmp_type))
		return false;
	if (packet->family == PILUS_FAMILY_IPV4) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
		    ip.frag_off & bpf_htons(0x1fff))
			return false;
		key.protocol = ip.protocol;
		key.destination.word[0] = ip.saddr;
		key.source.word[0] = ip.daddr;
		offset += ip.ihl * 4;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
			return false;
		key.protocol = ip.nexthdr;
		__builtin_memcpy(&key.destination, &ip.saddr, sizeof(key.destination));
		__builtin_memcpy(&key.source, &ip.daddr, sizeof(key.source));
		offset += sizeof(ip);
	}
	if (!pilus_same_address(&key.destination, &packet->destination) || bpf_skb_load_bytes(skb, offset, l4, sizeof(l4)))
		return false;
	switch (key.protocol) {
	case PILUS_IPPROTO_TCP:
	case PILUS_IPPROTO_UDP:
	case PILUS_IPPROTO_SCTP:
		key.destination_port = *(__be16 *)&l4[0];
		key.source_port = *(__be16 *)&l4[2];
		break;
	case PILUS_IPPROTO_ICMP:
	case PILUS_IPPROTO_ICMPV6:
		if (!pilus_is_echo(key.protocol, l4[0]))
			return false;
		if (pilus_is_echo_request(key.protocol, l4[0]))
			key.destination_port = *(__be16 *)&l4[4];
		else
			key.source_port = *(__be16 *)&l4[4];
		break;
	default:
		return false;
	}
	inner->key = key;
	inner->l4_offset = offset;
	return true;
}

pilus_always bool pilus_is_related(struct __sk_buff *skb, const struct pilus_packet *packet, const struct pilus_settings *now)
{
	struct pilus_inner inner;
	struct pilus_flow *held;

	if (!pilus_read_inner(skb, packet, &inner))
		return false;
	held = flows.lookup(&inner.key);
	if (!held)
		held = embryonic.lookup(&inner.key);
	if (!held || held->flags & PILUS_FLOW_DENIED || pilus_expired(held, now, pilus_seconds()))
		return false;
	if (!pilus_same_ends(skb, packet, held))
		return false;
	/* From where the reply would come: no other pod or node may speak of this connection. */
	if (packet->zone == PILUS_ZONE_OVERLAY_IN)	/* of that node the peer alone, or its own stack */
		return pilus_same_address(&held->outer, &packet->outer) &&
		       (pilus_same_address(&packet->source, &inner.key.source) || packet->vni == PILUS_IDENTITY_REMOTE_NODE);
	if (packet->zone == PILUS_ZONE_UPLINK_IN) {	/* all uplinks are one; of what is behind them the peer, or a node's own stack */
		struct pilus_ipcache *known = pilus_ipcache_of(packet->family, &packet->source);

		if (held->path == PILUS_PATH_HOST)	/* the host's own: any router on the way may say that a packet is too big */
			return true;
		return pilus_same_address(&packet->source, &inner.key.source) ||
		       (known && known->flags & (PILUS_IPCACHE_NODE | PILUS_IPCACHE_ROUTER));
	}
	return held->link == skb->ifindex;
}
