/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet at a glance: what the fast path reads of one that is plain. Whatever is not, the slow path parses (parse.h).
 */
#pragma once
#include "parse.h"

#define PILUS_TCP_FIN 0x01
#define PILUS_TCP_SYN 0x02
#define PILUS_TCP_RST 0x04
#define PILUS_TCP_ACK 0x10
#define PILUS_SLOW (-1)		/* no reason: the slow path finds one */

/* A plain packet, as far as the fast path needs it. */
struct pilus_glance {
	struct pilus_flow_key key;
	u32 size;		/* of the IP packet */
	u32 headers;		/* of these, IP and layer 4 */
	u32 tcp_flags;
};

pilus_always int pilus_glance_l4(void *l4, void *end, struct pilus_glance *seen)
{
	if (seen->key.protocol == PILUS_IPPROTO_TCP) {
		u8 *tcp = l4;

		if (l4 + sizeof(struct tcphdr) > end)
			return PILUS_SLOW;
		seen->key.source_port = *(__be16 *)l4;
		seen->key.destination_port = *(__be16 *)(l4 + 2);
		seen->tcp_flags = tcp[13];
		seen->headers += (tcp[12] >> 4) * 4;
		if ((seen->tcp_flags & (PILUS_TCP_SYN | PILUS_TCP_ACK)) == PILUS_TCP_SYN)
			return PILUS_SLOW;
		return 0;
	}
	if (l4 + 8 > end)
		return PILUS_SLOW;
	seen->headers += 8;
	if (seen->key.protocol == PILUS_IPPROTO_UDP) {
		seen->key.source_port = *(__be16 *)l4;
		seen->key.destination_port = *(__be16 *)(l4 + 2);
		return 0;
	}
	if (seen->key.protocol != (seen->key.family == PILUS_FAMILY_IPV4 ? PILUS_IPPROTO_ICMP : PILUS_IPPROTO_ICMPV6) ||
	    !pilus_is_echo(seen->key.protocol, *(u8 *)l4))
		return PILUS_SLOW;
	if (!*(__be16 *)(l4 + 4))	/* a request then has the key of an answer: pilus_recall() tells them apart */
		return PILUS_SLOW;
	if (pilus_is_echo_request(seen->key.protocol, *(u8 *)l4))
		seen->key.source_port = *(__be16 *)(l4 + 4);
	else
		seen->key.destination_port = *(__be16 *)(l4 + 4);
	return 0;
}

/* 0, or PILUS_SLOW for what is not plain: options, extensions, fragments, headers outside the linear part, errors. */
pilus_always int pilus_glance_at(struct __sk_buff *skb, struct pilus_glance *seen)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV4)) {
		struct iphdr *ip = data + PILUS_ETHERNET_LENGTH;

		if ((void *)(ip + 1) > end || *(u8 *)ip != 0x45 || ip->frag_off & bpf_htons(0x3fff) || ip->ttl <= 1)
			return PILUS_SLOW;
		seen->size = bpf_ntohs(ip->tot_len);
		seen->headers = sizeof(*ip);
		seen->key.family = PILUS_FAMILY_IPV4;
		seen->key.protocol = ip->protocol;
		seen->key.source.word[0] = ip->saddr;
		seen->key.destination.word[0] = ip->daddr;
		if (pilus_glance_l4(ip + 1, end, seen))
			return PILUS_SLOW;
	} else if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV6)) {
		struct ipv6hdr *ip = data + PILUS_ETHERNET_LENGTH;

		if ((void *)(ip + 1) > end || ip->version != 6 || ip->hop_limit <= 1)
			return PILUS_SLOW;
		seen->size = bpf_ntohs(ip->payload_len) + sizeof(*ip);
		seen->headers = sizeof(*ip);
		seen->key.family = PILUS_FAMILY_IPV6;
		seen->key.protocol = ip->nexthdr;
		__builtin_memcpy(&seen->key.source, &ip->saddr, sizeof(seen->key.source));
		__builtin_memcpy(&seen->key.destination, &ip->daddr, sizeof(seen->key.destination));
		if (pilus_glance_l4(ip + 1, end, seen))
			return PILUS_SLOW;
	} else {
		return PILUS_SLOW;
	}
	if (seen->headers > seen->size || seen->size + PILUS_ETHERNET_LENGTH > skb->len)
		return PILUS_SLOW;
	return 0;
}

/* The largest IP packet that this one becomes on a wire. */
pilus_always u32 pilus_wire_size(struct __sk_buff *skb, u32 size, u32 headers)
{
	return skb->gso_size ? skb->gso_size + headers : size;
}
