/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Masquerading: what a pod says to the outside bears this node's address and a port of a range that nobody else on the node
 * uses. The translation is part of the flow's record: chosen by the first packet, kept by every decision anew. Its inverse is
 * the reply's entry in `uplink in`, made before the first packet leaves, and only where no other is: two pods never share a
 * tuple.
 *
 * Cost: an established packet looks its entry up twice (the entry program is too small for the rewriting) and, once a second,
 * touches the other direction's, so that both age, expire and are swept together.
 */
#pragma once
#include "commit.h"
#include "related.h"

/* 6.16: the helper is told that no header's checksum makes up for the address (it had been wrong for CHECKSUM_COMPLETE). An
 * older kernel refuses the flag, and does what it did. */
#define PILUS_CSUM_IPV6 128
#define PILUS_NAT_TRIES 32		/* ports that a new connection tries, the first half by chance */
#define PILUS_BELIEVED 65536		/* bytes around what a pod has acknowledged, in which its peer may end the connection */

/* The other direction's key: `nat` stands in it for what this direction's address becomes. */
pilus_always void pilus_pair_key(struct pilus_flow_key *to, const struct pilus_flow_key *from, const struct pilus_flow *flow)
{
	pilus_turn_key(to, from, flow->pair_zone);
	if (flow->path == PILUS_PATH_OUTSIDE) {
		to->destination = flow->nat;
		to->destination_port = flow->nat_port;
	} else if (flow->path == PILUS_PATH_BACK) {
		to->source = flow->nat;
		to->source_port = flow->nat_port;
	}
}

/* -- rewriting ----------------------------------------------------------------------------------------------------------- */

/* An address's change in a checksum that covers it; with BPF_F_PSEUDO_HDR it is none of the payload. */
pilus_always int pilus_sum_address(struct __sk_buff *skb, u32 at, u32 family, const struct pilus_address *from,
				   const struct pilus_address *to, u64 flags)
{
	s64 difference;

	if (family == PILUS_FAMILY_IPV4)
		return bpf_l4_csum_replace(skb, at, from->word[0], to->word[0], flags | 4);
	difference = bpf_csum_diff((void *)from, sizeof(*from), (void *)to, sizeof(*to), 0);
	if (!bpf_l4_csum_replace(skb, at, 0, difference, flags | PILUS_CSUM_IPV6))
		return 0;
	return bpf_l4_csum_replace(skb, at, 0, difference, flags);
}

/* An address of the IP header at `ip`, and of IPv4 its header's checksum. */
pilus_always int pilus_set_address(struct __sk_buff *skb, u32 ip, u32 family, bool source, const struct pilus_address *from,
				   const struct pilus_address *to)
{
	if (family == PILUS_FAMILY_IPV6)
		return bpf_skb_store_bytes(skb, ip + (source ? 8 : 24), to, 16, 0);
	if (bpf_l3_csum_replace(skb, ip + 10, from->word[0], to->word[0], 4))
		return -1;
	return bpf_skb_store_bytes(skb, ip + (source ? 12 : 16), to, 4, 0);
}

/* Where a layer-4 header has its checksum. */
pilus_always u32 pilus_sum_offset(u8 protocol)
{
	return protocol == PILUS_IPPROTO_TCP ? 16 : protocol == PILUS_IPPROTO_UDP ? 6 : 2;
}

/* Where it has its port, or an echo its identifier. */
pilus_always u32 pilus_port_offset(u8 protocol, bool source)
{
	if (protocol == PILUS_IPPROTO_TCP || protocol == PILUS_IPPROTO_UDP)
		return source ? 0 : 2;
	return 4;
}

pilus_always int pilus_into(struct __sk_buff *skb, const struct pilus_flow *flow)
{
	struct ethhdr *ethernet = (void *)(long)skb->data;

	if ((void *)(ethernet + 1) > (void *)(long)skb->data_end)
		return -PILUS_DROP_WRITE_ERROR;
	pilus_copy_mac(ethernet->h_dest, flow->destination_mac);
	pilus_copy_mac(ethernet->h_source, flow->source_mac);
	return bpf_redirect_peer(flow->ifindex, 0);
}

/* Rewrite one packet and send it on. `key` is its own, in its own direction; `later`: a fragment without a layer-4 header. */
pilus_always int pilus_translate(struct __sk_buff *skb, const struct pilus_flow *flow, const struct pilus_flow_key *key, u32 l4,
				 bool later)
{
	bool out = flow->path == PILUS_PATH_OUTSIDE;
	const struct pilus_address *from = out ? &key->source : &key->destination;
	__be16 port = out ? key->source_port : key->destination_port;
	u32 check = l4 + pilus_sum_offset(key->protocol);
	/* A UDP checksum of 0 means that there is none, and stays so (RFC 768). */
	u64 flags = key->protocol == PILUS_IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (pilus_hop(skb, key->family, !out))
		return -PILUS_DROP_WRITE_ERROR;
	if (!later) {
		if (key->protocol != PILUS_IPPROTO_ICMP &&
		    pilus_sum_address(skb, check, key->family, from, &flow->nat, BPF_F_PSEUDO_HDR | flags))
			return -PILUS_DROP_WRITE_ERROR;
		if (bpf_l4_csum_replace(skb, check, port, flow->nat_port, flags | 2) ||
		    bpf_skb_store_bytes(skb, l4 + pilus_port_offset(key->protocol, out), &flow->nat_port, 2, 0))
			return -PILUS_DROP_WRITE_ERROR;
	}
	if (pilus_set_address(skb, PILUS_ETHERNET_LENGTH, key->family, out, from, &flow->nat))
		return -PILUS_DROP_WRITE_ERROR;
	return out ? pilus_out(flow->ifindex) : pilus_into(skb, flow);
}

/* -- choosing ------------------------------------------------------------------------------------------------------------ */

/* Whether a reply's entry translates back to this packet's sender. */
pilus_always bool pilus_leads_back(const struct pilus_flow *pair, const struct pilus_address *source, __be16 port)
{
	return pair->nat_port == port && pilus_same_address(&pair->nat, source);
}

/* An expired entry makes room. Of two CPUs that want the same one, one gets it. */
pilus_always bool pilus_clear(struct pilus_flow_key *key, const struct pilus_settings *now, u32 seconds)
{
	struct pilus_flow *held;
	u32 one = 1;

	if (claims.insert(key, &one))
		return false;
	held = pilus_held(key);
	if (held && pilus_expired(held, now, seconds)) {
		flows.delete(key);
		embryonic.delete(key);
		held = NULL;
	}
	claims.delete(key);
	return !held;
}

/* Whether this port is ours now: pair_key stands in the table, and leads back to the sender. */
pilus_always bool pilus_reserve(struct pilus_packet *packet, const struct pilus_settings *now, struct pilus_draft *drafted,
				__be16 port, u32 seconds)
{
	struct pilus_flow *held;

	drafted->pair_key.destination_port = port;
	held = pilus_held(&drafted->pair_key);
	if (held) {
		if (pilus_leads_back(held, &packet->source, packet->source_port))
			return true;
		if (!pilus_expired(held, now, seconds) || !pilus_clear(&drafted->pair_key, now, seconds))
			return false;
	}
	if (embryonic.insert(&drafted->pair_key, &drafted->pair))
		return false;
	/* A promotion writes `flows` before it deletes here: one that we have missed above is there by now. */
	if (flows.lookup(&drafted->pair_key)) {
		embryonic.delete(&drafted->pair_key);
		return false;
	}
	return true;
}

/* Of two neighbouring ports an endpoint uses one, a hash of both says which. So one pod can't take more than half of the ports
 * towards a destination, and leaves every other pod a half of that other pod's own half, without anything to count. */
pilus_always __be16 pilus_nat_candidate(const struct pilus_settings *now, u32 endpoint, u32 at)
{
	u32 count = now->nat_last - now->nat_first + 1, index = at % count, mixed;

	if ((index | 1) < count) {
		mixed = endpoint * (u32)PILUS_GENERATION_FACTOR ^ (index >> 1) * 2246822519U;
		mixed = (mixed ^ mixed >> 15) * 3266489917U;
		index = (index & ~1U) | mixed >> 31;
	}
	return bpf_htons(now->nat_first + index);
}

/* What a pod has acknowledged of its peer's, in network order; 0: nothing yet. Where the record has room for the address of a
 * direct return, which nothing that is masqueraded has. */
pilus_always __be32 *pilus_acknowledged(struct pilus_flow *flow)
{
	return &flow->direct_return.word[3];
}

/* Whether an end (FIN, RST) from the outside is believed. Anybody out there can bear the peer's address, and a record that
 * closes is soon gone, though the pod has heard of no end (RFC 5961): its sequence number has to be near what the pod expects. */
pilus_always bool pilus_believed(struct __sk_buff *skb, u32 l4, struct pilus_flow *forward)
{
	__be32 acknowledged = *pilus_acknowledged(forward), sequence;

	if (!acknowledged || bpf_skb_load_bytes(skb, l4 + 4, &sequence, sizeof(sequence)))
		return true;
	return bpf_ntohl(sequence) - bpf_ntohl(acknowledged) + PILUS_BELIEVED <= 2 * PILUS_BELIEVED;
}

/* A pod's TCP packet says how far it has heard its peer. */
pilus_always void pilus_heard(struct __sk_buff *skb, u32 l4, u32 tcp_flags, struct pilus_flow *forward)
{
	__be32 number;

	if (tcp_flags & PILUS_TCP_ACK && !bpf_skb_load_bytes(skb, l4 + 8, &number, sizeof(number)))
		*pilus_acknowledged(forward) = number;
}

/* Of two first packets on two CPUs one has made the forward entry; the other goes with its port and gives its own back. Asked at
 * the commit: behind the search for a port the verifier would look at it once for each try. */
pilus_always int pilus_agree(const struct pilus_packet *packet, const struct pilus_settings *now, struct pilus_draft *drafted,
			     u32 seconds)
{
	struct pilus_flow *flow = &drafted->flow, *held = pilus_held(&drafted->key);

	/* One that was there when the port was looked for, or is a former connection's, has been thought of. */
	if (held && (packet->held || pilus_expired(held, now, seconds) || held->path != flow->path || held->link != flow->link ||
		     held->pair_link != flow->pair_link || !pilus_same_address(&held->nat, &flow->nat)))
		return 0;
	if (!held) {
		flow->state = drafted->pair.state;
		flow->created = seconds;
		flow->last_seen = seconds;
		if (!embryonic.insert(&drafted->key, flow))
			return 0;
		held = pilus_held(&drafted->key);
		if (!held)
			return -PILUS_DROP_NAT_NO_MAPPING;
	}
	if (held->nat_port != flow->nat_port) {
		embryonic.delete(&drafted->pair_key);
		flow->nat_port = held->nat_port;
		drafted->pair_key.destination_port = held->nat_port;
	}
	return 0;
}

/* The translation of a connection: the one it has, or a new one. Fills flow.nat_port and pair_key. */
pilus_always int pilus_choose_port(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_settings *now,
				   struct pilus_draft *drafted)
{
	struct pilus_flow *flow = &drafted->flow, *pair = &drafted->pair, *held = pilus_held(&drafted->key);
	u32 seconds = pilus_seconds(), start;

	if (packet->reply) {	/* as it came: what it answers to was chosen long ago */
		flow->nat_port = drafted->pair_key.destination_port;
		if (packet->zone != PILUS_ZONE_UPLINK_IN || !pilus_same_address(&drafted->pair_key.destination, &flow->nat) ||
		    (held && (held->nat_port != flow->nat_port || !pilus_same_address(&held->nat, &flow->nat))))
			return -PILUS_DROP_NAT_NO_MAPPING;
		if (held && packet->protocol == PILUS_IPPROTO_TCP && packet->tcp_flags & (PILUS_TCP_FIN | PILUS_TCP_RST) &&
		    !pilus_believed(skb, packet->l4_offset, held))
			packet->tcp_flags &= ~(PILUS_TCP_FIN | PILUS_TCP_RST);
		return 0;
	}
	if (held && packet->protocol == PILUS_IPPROTO_TCP)
		pilus_heard(skb, packet->l4_offset, packet->tcp_flags, held);
	/* Its endpoint changes right now: there would be no way back. */
	if (packet->uncached || !now->nat_first || now->nat_last < now->nat_first)
		return -PILUS_DROP_NAT_NO_MAPPING;
	pilus_turn_key(&drafted->pair_key, &drafted->key, pair->zone);
	drafted->pair_key.destination = flow->nat;
	pair->state = packet->protocol == PILUS_IPPROTO_TCP ? PILUS_FLOW_SYN : PILUS_FLOW_OTHER;
	pair->created = seconds;
	pair->last_seen = seconds;
	if (held && held->path == PILUS_PATH_OUTSIDE && pilus_same_address(&held->nat, &flow->nat) &&
	    !pilus_expired(held, now, seconds) && pilus_reserve(packet, now, drafted, held->nat_port, seconds)) {
		flow->nat_port = drafted->pair_key.destination_port;
		return 0;
	}
	/* By chance, which an attacker off the path can't foresee (RFC 6056); then one after the other, so that a small range is
	 * tried whole: by twos, one of which is the endpoint's. */
	start = bpf_get_prandom_u32();
	for (u32 i = 0; i < PILUS_NAT_TRIES; i++) {
		u32 at = i < PILUS_NAT_TRIES / 2 ? bpf_get_prandom_u32() : start + 2 * i;

		if (pilus_reserve(packet, now, drafted, pilus_nat_candidate(now, packet->endpoint, at), seconds)) {
			flow->nat_port = drafted->pair_key.destination_port;
			return 0;
		}
	}
	return -PILUS_DROP_NAT_NO_MAPPING;
}

/* -- established packets ------------------------------------------------------------------------------------------------- */

/* The other direction's entry is still ours; it ages with this one. */
pilus_always bool pilus_touch_pair(const struct pilus_flow_key *key, const struct pilus_flow *flow, u32 seconds)
{
	struct pilus_flow_key other;
	struct pilus_flow *pair;

	pilus_pair_key(&other, key, flow);
	pair = pilus_held(&other);
	if (!pair)
		return false;
	if (flow->path == PILUS_PATH_OUTSIDE ? !pilus_leads_back(pair, &key->source, key->source_port)
					     : !pilus_leads_back(pair, &key->destination, key->destination_port))
		return false;
	pilus_touch(pair, seconds);
	return true;
}

/* What pilus_fast found to be translated, and good; the packet is plain. An action, or PILUS_SLOW. */
pilus_always int pilus_fast_translate(struct __sk_buff *skb, struct pilus_packet *packet, struct pilus_glance *seen)
{
	u32 l4 = PILUS_ETHERNET_LENGTH + (seen->key.family == PILUS_FAMILY_IPV4 ? 20 : 40);
	u32 seconds = pilus_seconds();
	struct pilus_flow *flow = flows.lookup(&seen->key);
	bool young = !flow;
	int result;

	if (!flow)
		flow = embryonic.lookup(&seen->key);
	if (!flow || flow->path < PILUS_PATH_OUTSIDE)
		return PILUS_SLOW;
	/* The other one may be evicted while this one is used: asked for each packet, until both are safe. */
	if ((young || flow->last_seen != seconds) && !pilus_touch_pair(&seen->key, flow, seconds))
		return PILUS_SLOW;
	if (seen->key.protocol == PILUS_IPPROTO_TCP) {
		if (flow->path == PILUS_PATH_OUTSIDE) {
			pilus_heard(skb, l4, seen->tcp_flags, flow);
		} else if (seen->tcp_flags & (PILUS_TCP_FIN | PILUS_TCP_RST)) {
			struct pilus_flow_key other;
			struct pilus_flow *pair;

			pilus_pair_key(&other, &seen->key, flow);
			pair = pilus_held(&other);
			if (pair && !pilus_believed(skb, l4, pair))
				seen->tcp_flags &= ~(PILUS_TCP_FIN | PILUS_TCP_RST);
		}
	}
	result = pilus_account(skb, seen, flow, young, seconds);
	if (result < 0)
		return PILUS_SLOW;
	if (result) {
		struct pilus_flow_key other;
		struct pilus_flow *pair;

		pilus_pair_key(&other, &seen->key, flow);
		pair = flows.lookup(&other);
		if (pair)
			pair->state = flow->state;
	}
	pilus_count(skb, packet->hook, 0);
	return pilus_translate(skb, flow, &seen->key, l4, false);
}

/* -- errors about masqueraded packets ------------------------------------------------------------------------------------ */

/* An ICMP error, and the packet in it, which went the other way. `inner` is what pilus_read_inner() found, `held` the entry of
 * the side that the error goes to or comes from. TTL, addresses, the inner port, and every checksum on the way. */
pilus_always int pilus_translate_error(struct __sk_buff *skb, const struct pilus_packet *packet, const struct pilus_inner *inner,
				       const struct pilus_flow *held)
{
	bool out = held->path == PILUS_PATH_OUTSIDE;
	u32 family = packet->family, outer_check = packet->l4_offset + 2;
	u8 protocol = inner->key.protocol;
	struct pilus_address from = out ? inner->key.source : inner->key.destination, to = held->nat;
	__be16 port = out ? inner->key.source_port : inner->key.destination_port, became = held->nat_port;
	u32 check = inner->l4_offset + pilus_sum_offset(protocol);
	__be16 before, after;

	/* The inner packet's own checksum, where the error is long enough to have it. */
	if (!bpf_skb_load_bytes(skb, check, &before, sizeof(before)) && (before || protocol != PILUS_IPPROTO_UDP)) {
		if (protocol != PILUS_IPPROTO_ICMP && pilus_sum_address(skb, check, family, &from, &to, 0))
			return -PILUS_DROP_WRITE_ERROR;
		if (bpf_l4_csum_replace(skb, check, port, became, 2) || bpf_skb_load_bytes(skb, check, &after, sizeof(after)) ||
		    bpf_l4_csum_replace(skb, outer_check, before, after, 2))
			return -PILUS_DROP_WRITE_ERROR;
	}
	if (bpf_skb_store_bytes(skb, inner->l4_offset + pilus_port_offset(protocol, !out), &became, 2, 0) ||
	    bpf_l4_csum_replace(skb, outer_check, port, became, 2))
		return -PILUS_DROP_WRITE_ERROR;
	/* IPv4's inner header makes up for its address by its own checksum; IPv6's does not, and counts the outer one as well. */
	if (pilus_set_address(skb, packet->l4_offset + 8, family, !out, &from, &to))
		return -PILUS_DROP_WRITE_ERROR;
	if (family == PILUS_FAMILY_IPV6 &&
	    (pilus_sum_address(skb, outer_check, family, &from, &to, 0) ||
	     pilus_sum_address(skb, outer_check, family, &from, &to, BPF_F_PSEUDO_HDR)))
		return -PILUS_DROP_WRITE_ERROR;
	if (pilus_set_address(skb, PILUS_ETHERNET_LENGTH, family, out, &from, &to))
		return -PILUS_DROP_WRITE_ERROR;
	return pilus_hop(skb, family, !out);
}
