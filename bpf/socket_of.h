/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who began a connection of this host's own that no entry knows: one that was open before the host had a policy, or whose entry was
 * evicted. Its sockets know.
 */
#pragma once
#include "host.h"

/* Of net/tcp_states.h. */
#define PILUS_TCP_LISTEN 10
#define PILUS_TCP_NEW_SYN_RECV 12

/* The other side's end and ours, as of what comes in; an end of nobody's finds who listens. */
struct pilus_ends {
	struct bpf_sock_tuple tuple;
	u32 size;
};

pilus_always void pilus_ends_of(struct pilus_ends *ends, u32 family, const struct pilus_address *there, __be16 there_port,
				const struct pilus_address *here, __be16 here_port)
{
	if (family == PILUS_FAMILY_IPV4) {
		ends->tuple.ipv4.saddr = there->word[0];
		ends->tuple.ipv4.daddr = here->word[0];
		ends->tuple.ipv4.sport = there_port;
		ends->tuple.ipv4.dport = here_port;
		ends->size = sizeof(ends->tuple.ipv4);
	} else {
		__builtin_memcpy(ends->tuple.ipv6.saddr, there, sizeof(*there));
		__builtin_memcpy(ends->tuple.ipv6.daddr, here, sizeof(*here));
		ends->tuple.ipv6.sport = there_port;
		ends->tuple.ipv6.dport = here_port;
		ends->size = sizeof(ends->tuple.ipv6);
	}
}

/* The state of the TCP socket that a packet is for; 0: there is none. */
pilus_always u32 pilus_tcp_state(struct __sk_buff *skb, struct pilus_ends *ends)
{
	struct bpf_sock *found;
	u32 state;

	if (ends->size == sizeof(ends->tuple.ipv4))
		found = bpf_skc_lookup_tcp(skb, &ends->tuple, sizeof(ends->tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	else
		found = bpf_skc_lookup_tcp(skb, &ends->tuple, sizeof(ends->tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return 0;
	state = found->state;
	bpf_sk_release(found);
	return state;
}

pilus_always bool pilus_is_listening(struct __sk_buff *skb, u32 family, const struct pilus_address *here, __be16 port)
{
	struct pilus_address nobody = {};
	struct pilus_ends ends = {};

	pilus_ends_of(&ends, family, &nobody, 0, here, port);
	return pilus_tcp_state(skb, &ends) == PILUS_TCP_LISTEN;
}

/* Of what comes in: a socket is connected to who sent it, and nobody listens there. */
pilus_always bool pilus_host_began(struct __sk_buff *skb, const struct pilus_packet *packet)
{
	struct pilus_ends ends = {};
	u32 state;

	pilus_ends_of(&ends, packet->family, &packet->source, packet->source_port, &packet->destination, packet->destination_port);
	state = pilus_tcp_state(skb, &ends);
	return state && state != PILUS_TCP_LISTEN && state != PILUS_TCP_NEW_SYN_RECV &&
	       !pilus_is_listening(skb, packet->family, &packet->destination, packet->destination_port);
}

/* Nothing is known of its connection, and it is not its first packet. */
pilus_always bool pilus_is_amid(const struct pilus_packet *packet)
{
	return !packet->held && !packet->reply && !packet->uncached && packet->protocol == PILUS_IPPROTO_TCP &&
	       (packet->tcp_flags & (PILUS_TCP_SYN | PILUS_TCP_ACK)) != PILUS_TCP_SYN;
}

/* As a reply of a connection that begins now, in that zone. */
pilus_always void pilus_as_reply(struct pilus_packet *packet, struct pilus_draft *drafted, u8 zone)
{
	drafted->pair_key = drafted->key;
	pilus_turn_key(&drafted->key, &drafted->pair_key, zone);
	pilus_turn_around(packet, &drafted->key);
	packet->forward_zone = zone;
}
