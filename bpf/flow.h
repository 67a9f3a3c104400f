/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow table: what was concluded for a connection's first packet is replayed for the others. An established packet costs
 * one lookup in a hash, three in an array, and the redirect. Whatever is not plain goes the slow way (slow.c), which decides.
 */
#pragma once
#include "deliver.h"
#include "glance.h"

#define PILUS_HOP_LIMIT 7	/* where it is in an IPv6 header */

/* Seconds of CLOCK_MONOTONIC_COARSE. A multiplication instead of a division by 1e9: 1 s a year off, 5 ns less. */
pilus_always u32 pilus_seconds(void)
{
	return ((bpf_ktime_get_coarse_ns() >> 20) * 18014398ULL) >> 34;
}

pilus_always u32 pilus_timeout(const struct pilus_settings *now, u8 state)
{
	u32 configured = now->timeout[state & 3];

	if (configured)
		return configured;
	switch (state) {
	case PILUS_FLOW_ESTABLISHED:
		return PILUS_TIMEOUT_ESTABLISHED;
	case PILUS_FLOW_CLOSING:
		return PILUS_TIMEOUT_CLOSING;
	default:
		return PILUS_TIMEOUT_OTHER;	/* SYN's is the same */
	}
}

/* Signed: another CPU may have written a second that this one has not seen yet. */
pilus_always bool pilus_expired(const struct pilus_flow *flow, const struct pilus_settings *now, u32 seconds)
{
	return (s32)(seconds - flow->last_seen) > (s32)pilus_timeout(now, flow->state);
}

pilus_always u32 pilus_generation_of(u32 slot)
{
	u32 index = slot & (PILUS_GENERATION_SLOTS - 1);
	u32 *value = generation.lookup(&index);

	return value ? *value : 0;
}

/* Cost: three array lookups, which the kernel inlines. */
pilus_always bool pilus_fresh(const struct pilus_flow *flow)
{
	return pilus_generation_of(flow->slot[0]) == flow->generation[0] &&
	       pilus_generation_of(flow->slot[1]) == flow->generation[1] &&
	       pilus_generation_of(flow->slot[2]) == flow->generation[2];
}

/* A record is of this packet's connection only while the same pods are at both ends: addresses are given again, links are not.
 * Whose address this is now, has been looked at. */
pilus_always bool pilus_same_ends(struct __sk_buff *skb, const struct pilus_packet *packet, const struct pilus_flow *held)
{
	struct pilus_endpoint *to;

	if (packet->zone == PILUS_ZONE_POD_OUT && held->link != skb->ifindex)
		return false;
	if (held->pair_zone != PILUS_ZONE_POD_OUT)
		return true;
	to = pilus_endpoint_of(packet->family, held->path == PILUS_PATH_BACK ? &held->nat : &packet->destination);
	return to && to->ifindex == held->pair_link;
}

pilus_always void pilus_turn_key(struct pilus_flow_key *to, const struct pilus_flow_key *from, u8 zone)
{
	to->zone = zone;
	to->family = from->family;
	to->protocol = from->protocol;
	to->pad = 0;
	to->source_port = from->destination_port;
	to->destination_port = from->source_port;
	to->source = from->destination;
	to->destination = from->source;
}

/* A reply becomes the forward direction's, by whose key it goes from now on. */
pilus_always void pilus_turn_around(struct pilus_packet *packet, const struct pilus_flow_key *forward)
{
	packet->reply = 1;
	packet->source = forward->source;
	packet->destination = forward->destination;
	packet->source_port = forward->source_port;
	packet->destination_port = forward->destination_port;
}

/* The state that a packet leaves its connection in. `young`: the other side has not spoken. */
pilus_always u8 pilus_next_state(u8 state, u8 tcp_flags, bool payload, bool young)
{
	if (tcp_flags & (PILUS_TCP_FIN | PILUS_TCP_RST))
		return PILUS_FLOW_CLOSING;
	if (tcp_flags & PILUS_TCP_SYN || young)
		return state;
	if (state == PILUS_FLOW_CLOSING)	/* the last acknowledgements carry nothing: data says that it lives */
		return payload ? PILUS_FLOW_ESTABLISHED : state;
	return PILUS_FLOW_ESTABLISHED;
}

/* What a packet leaves in its own entry. Every packet of a flow is counted once, on whichever CPU. */
pilus_always void pilus_note(struct __sk_buff *skb, struct pilus_flow *flow, u8 tcp_flags, u32 seconds)
{
	if (flow->last_seen != seconds)
		flow->last_seen = seconds;
	if ((flow->tcp_flags | tcp_flags) != flow->tcp_flags)
		flow->tcp_flags |= tcp_flags;
	__sync_fetch_and_add(&flow->packets, 1);
	__sync_fetch_and_add(&flow->bytes, skb->len);
}

/* One hop on. `received`: by a link, not by a pod. */
pilus_always int pilus_hop(struct __sk_buff *skb, u32 family, bool received)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (family == PILUS_FAMILY_IPV4) {
		struct iphdr *ip = data + PILUS_ETHERNET_LENGTH;
		u32 check;

		if ((void *)(ip + 1) > end)
			return -PILUS_DROP_WRITE_ERROR;
		ip->ttl--;
		check = ip->check;	/* RFC 1624: the header's checksum grows by what the word lost */
		check += bpf_htons(0x0100);
		ip->check = check + (check >= 0xffff);
	} else {
		struct ipv6hdr *ip = data + PILUS_ETHERNET_LENGTH;

		if ((void *)(ip + 1) > end)
			return -PILUS_DROP_WRITE_ERROR;
		if (received) {
			u8 hops = ip->hop_limit - 1;

			/* A network card may have summed the whole packet (CHECKSUM_COMPLETE); IPv6 has no header checksum that
			 * would make up for the change. */
			if (bpf_skb_store_bytes(skb, PILUS_ETHERNET_LENGTH + PILUS_HOP_LIMIT, &hops, 1, BPF_F_RECOMPUTE_CSUM))
				return -PILUS_DROP_WRITE_ERROR;
		} else {
			ip->hop_limit--;
		}
	}
	return 0;
}

/* With all four parameters, which bcc's declaration lacks one of. */
static long (*pilus_redirect_neigh)(u32 link, void *next, int size, u64 flags) = (void *)BPF_FUNC_redirect_neigh;

/* Out by the uplink: the kernel's routes and neighbours say to whom. */
pilus_always int pilus_out(u32 link)
{
	return pilus_redirect_neigh(link, NULL, 0, 0);
}

/* Do what a conclusion says. TTL and MTU have been looked at. */
pilus_always int pilus_replay(struct __sk_buff *skb, const struct pilus_flow *flow, u32 family, u32 hook)
{
	struct ethhdr *ethernet;

	if (hook == PILUS_HOOK_POD_TO)
		return PILUS_ACT_OK;
	if (hook == PILUS_HOOK_OVERLAY_TO)	/* already on the tunnel's link, and no hop on: all it lacks is the key */
		return pilus_tunnel_key(skb, &flow->tunnel, flow->tunnel_id) ? -PILUS_DROP_NO_TUNNEL_KEY : PILUS_ACT_OK;
	/* The tunnel's link saw another destination than its own and marked the packet as somebody else's. */
	if (hook == PILUS_HOOK_OVERLAY_FROM)
		bpf_skb_change_type(skb, PILUS_PACKET_HOST);
	if (flow->path == PILUS_PATH_HOST)	/* an uplink may have filters of others behind ours */
		return hook == PILUS_HOOK_UPLINK_FROM || hook == PILUS_HOOK_UPLINK_TO ? PILUS_ACT_PIPE : PILUS_ACT_OK;
	if (pilus_hop(skb, family, hook == PILUS_HOOK_OVERLAY_FROM || hook == PILUS_HOOK_UPLINK_FROM))
		return -PILUS_DROP_WRITE_ERROR;
	ethernet = (void *)(long)skb->data;
	if ((void *)(ethernet + 1) > (void *)(long)skb->data_end)
		return -PILUS_DROP_WRITE_ERROR;
	if (flow->path == PILUS_PATH_POD) {
		pilus_copy_mac(ethernet->h_dest, flow->destination_mac);
		pilus_copy_mac(ethernet->h_source, flow->source_mac);
		/* Past the host's stack and the veth's queue; works at tc ingress alone. */
		return bpf_redirect_peer(flow->ifindex, 0);
	}
	if (hook == PILUS_HOOK_UPLINK_FROM)	/* what came from there goes into a pod or nowhere */
		return -PILUS_DROP_UNROUTABLE;
	if (flow->path == PILUS_PATH_DIRECT)
		return pilus_out(flow->ifindex);
	if (flow->path != PILUS_PATH_TUNNEL)
		return -PILUS_DROP_UNROUTABLE;
	if (pilus_tunnel_key(skb, &flow->tunnel, flow->tunnel_id))
		return -PILUS_DROP_NO_TUNNEL_KEY;
	return bpf_redirect(flow->ifindex, 0);
}

/* An entry lives on because of the other direction's packet. To the second before: "seen in this second" is said by its own
 * packets alone, since a young reply asks for promotion by it. */
pilus_always void pilus_touch(struct pilus_flow *pair, u32 seconds)
{
	if ((s32)(seconds - pair->last_seen) > 1)
		pair->last_seen = seconds - 1;
}

/* The other direction's entry enters the same state, and ages with this one. Rare: a connection's begin and end, and, of what
 * may go one way for long, once a second. */
pilus_always void pilus_move_pair(const struct pilus_flow_key *key, u8 zone, u8 state, u32 seconds)
{
	struct pilus_flow_key other;
	struct pilus_flow *pair;

	pilus_turn_key(&other, key, zone);
	pair = flows.lookup(&other);
	if (!pair)
		pair = embryonic.lookup(&other);
	if (!pair)
		return;
	pair->state = state;
	pilus_touch(pair, seconds);
}

/* Note a packet in its entry. PILUS_SLOW: it is not as simple; 1: the other direction's entry has to follow. */
pilus_always int pilus_account(struct __sk_buff *skb, const struct pilus_glance *seen, struct pilus_flow *flow, bool young,
			       u32 seconds)
{
	u8 state = flow->state;
	bool follow;

	/* The other side's first packet promotes; where there is no room for it, it asks again once a second. */
	if (young && flow->role == PILUS_FLOW_REPLY && (!flow->packets || flow->last_seen != seconds))
		return PILUS_SLOW;
	if (flow->mtu && seen->size > flow->mtu && pilus_wire_size(skb, seen->size, seen->headers) > flow->mtu)
		return PILUS_SLOW;
	if (seen->key.protocol == PILUS_IPPROTO_TCP) {
		state = pilus_next_state(state, seen->tcp_flags, seen->size > seen->headers, young);
		follow = state != flow->state;
		if (follow)
			flow->state = state;
	} else {	/* nothing acknowledges it: one side alone may talk, and be answered late */
		follow = flow->last_seen != seconds;
	}
	pilus_note(skb, flow, seen->tcp_flags, seconds);
	return follow;
}

/* The entry programs are too small to rewrite a packet: a tail call does it (nat.h), which looks the entry up again. */
pilus_always int pilus_to_translate(struct __sk_buff *skb, const struct pilus_glance *seen, u32 hook)
{
	u32 zero = 0;
	struct pilus_packet *packet = scratch.lookup(&zero);
	struct pilus_draft *drafted = draft.lookup(&zero);

	if (!packet || !drafted)
		return PILUS_SLOW;
	drafted->key = seen->key;
	packet->hook = hook;
	packet->size = seen->size;
	packet->headers = seen->headers;
	packet->tcp_flags = seen->tcp_flags;
	calls.call(skb, PILUS_CALL_TRANSLATE);
	return PILUS_SLOW;
}

/* What pilus_fast does once it has looked at the packet. */
pilus_always int pilus_fast_seen(struct __sk_buff *skb, const struct pilus_glance *seen, u32 zone, u32 hook,
				 const struct pilus_settings *now, const struct pilus_packet *where)
{
	struct pilus_flow *flow;
	bool young = false;
	u32 seconds;
	int result;

	flow = flows.lookup(&seen->key);
	if (!flow) {
		flow = embryonic.lookup(&seen->key);
		if (!flow)
			return PILUS_SLOW;
		young = true;
	}
	if (zone == PILUS_ZONE_OVERLAY_IN) {
		if (flow->vni != where->vni || !pilus_same_address(&flow->outer, &where->outer))
			return PILUS_SLOW;
	} else if (zone != PILUS_ZONE_UPLINK_IN && zone != PILUS_ZONE_UPLINK_OUT && flow->link != skb->ifindex) {	/* uplinks are one */
		return PILUS_SLOW;
	}
	seconds = pilus_seconds();
	if (!pilus_fresh(flow) || pilus_expired(flow, now, seconds))
		return PILUS_SLOW;
	if (flow->path >= PILUS_PATH_OUTSIDE)
		return pilus_to_translate(skb, seen, hook);
	result = pilus_account(skb, seen, flow, young, seconds);
	if (result < 0)
		return PILUS_SLOW;
	if (result)
		pilus_move_pair(&seen->key, flow->pair_zone, flow->state, seconds);
	pilus_count(skb, hook, 0);
	return pilus_replay(skb, flow, seen->key.family, hook);
}

/* An action, or PILUS_SLOW: no entry, expired, stale, from elsewhere, not plain, or too big for its path. `where`: the overlay's
 * number and outer source. MACs are not compared: the link says whose packet it is, and delivery writes others. */
pilus_always int pilus_fast(struct __sk_buff *skb, u32 zone, u32 hook, const struct pilus_settings *now,
			    const struct pilus_packet *where)
{
	struct pilus_glance seen = { .key.zone = zone };

	if (pilus_glance_at(skb, &seen))
		return PILUS_SLOW;
	return pilus_fast_seen(skb, &seen, zone, hook, now, where);
}

/* What this host's own stack sends, seen at tc egress of a pod's link or of the tunnel. What the stack forwards goes the slow way,
 * which refuses it. */
pilus_always int pilus_from_stack(struct __sk_buff *skb, u32 hook)
{
	struct pilus_packet *packet;
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	if (now && now->flags & PILUS_SETTING_READY && !skb->ingress_ifindex) {
		result = pilus_fast(skb, PILUS_ZONE_HOST_OUT, hook, now, NULL);
		if (result >= 0)
			return result;
	}
	packet = pilus_begin(hook);
	if (!packet)
		return PILUS_ACT_SHOT;
	packet->zone = PILUS_ZONE_HOST_OUT;
	if (!now || !(now->flags & PILUS_SETTING_READY))
		return pilus_drop(skb, packet, -PILUS_DROP_NO_CONFIG);
	return pilus_parse_slowly(skb, packet);
}
