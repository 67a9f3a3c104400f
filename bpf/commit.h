/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What was decided becomes entries: a new connection's pair in `embryonic`, a known one's restamped in place, and both moved to
 * `flows` once the other side has spoken. Refusals are never written; a record is never cut short.
 */
#pragma once
#include "decide.h"

/* Keeps the compiler from moving a write across. x86 keeps stores in order; arm64 does not, and a packet there may meet half of a
 * conclusion and half of the next for an instant: both were right in their time. */
#define pilus_barrier() asm volatile("" ::: "memory")

pilus_always struct pilus_flow *pilus_held(const struct pilus_flow_key *key)
{
	struct pilus_flow *flow = flows.lookup(key);

	return flow ? flow : embryonic.lookup(key);
}

/* The conclusion alone, record untouched. A reader on another CPU that sees half of it finds it stale: the first value is
 * written last. */
pilus_always void pilus_restamp(struct pilus_flow *held, const struct pilus_flow *drafted, bool own)
{
	held->generation[0] = drafted->generation[0] - 1;
	pilus_barrier();
	held->slot[0] = drafted->slot[0];
	held->slot[1] = drafted->slot[1];
	held->slot[2] = drafted->slot[2];
	held->generation[1] = drafted->generation[1];
	held->generation[2] = drafted->generation[2];
	held->ifindex = drafted->ifindex;
	held->path = drafted->path;
	pilus_copy_mac(held->destination_mac, drafted->destination_mac);
	pilus_copy_mac(held->source_mac, drafted->source_mac);
	held->mtu = drafted->mtu;
	held->tunnel_id = drafted->tunnel_id;
	held->tunnel = drafted->tunnel;
	held->nat = drafted->nat;
	held->nat_port = drafted->nat_port;
	held->source_identity = drafted->source_identity;
	held->destination_identity = drafted->destination_identity;
	held->rule = drafted->rule;
	held->flags = drafted->flags;
	if (own) {	/* where it was decided: here, by this packet, which has proved that it may come from here */
		held->link = drafted->link;
		held->vni = drafted->vni;
		held->outer = drafted->outer;
		held->pair_link = drafted->pair_link;
	}
	pilus_barrier();
	held->generation[0] = drafted->generation[0];
}

/* A new connection where an old one's record has expired, or was other pods': everything but the counters, which the sweep has
 * not read yet. */
pilus_always void pilus_take_over(struct pilus_flow *held, const struct pilus_flow *drafted)
{
	pilus_restamp(held, drafted, true);
	held->role = drafted->role;
	held->state = drafted->state;
	held->zone = drafted->zone;
	held->pair_zone = drafted->pair_zone;
	held->tcp_flags = 0;
	held->endpoint = drafted->endpoint;
	held->created = drafted->created;
	held->last_seen = drafted->last_seen;
}

/* One direction's entry, new or renewed. NULL where the other role's record lives: UDP with equal ports runs both ways. */
pilus_always struct pilus_flow *pilus_enter(const struct pilus_flow_key *key, const struct pilus_flow *drafted,
					    const struct pilus_settings *now, u32 seconds, bool own, bool reply)
{
	struct pilus_flow *held = pilus_held(key);

	if (!held) {	/* another CPU may make it meanwhile: it is not written over, or its packet would not be counted */
		embryonic.insert((struct pilus_flow_key *)key, (struct pilus_flow *)drafted);
		held = pilus_held(key);
		if (!held)
			return NULL;
	}
	/* A port that was given to a pod is that pod's, until its record expires. */
	if (held->path == PILUS_PATH_BACK && drafted->path != PILUS_PATH_BACK && !pilus_expired(held, now, seconds))
		return NULL;
	/* Other ends than a forward decision's: left by who had an address before. A reply has been compared with its record. */
	if (pilus_expired(held, now, seconds) ||
	    (!reply && (held->link != drafted->link || held->pair_link != drafted->pair_link))) {
		pilus_take_over(held, drafted);
		return held;
	}
	if (held->role != drafted->role)
		return NULL;
	pilus_restamp(held, drafted, own);
	return held;
}

/* Both directions to `flows`, if the endpoint's quota and the table have room; else they stay where they are, and work. */
pilus_always void pilus_promote(struct pilus_draft *drafted, const struct pilus_settings *now)
{
	u32 index = drafted->flow.endpoint & 65535, most = now->flow_quota ? now->flow_quota : PILUS_FLOWS_SIZE / 8;
	struct pilus_quota *quota = quotas.lookup(&index);
	struct pilus_flow *flow = embryonic.lookup(&drafted->key), *pair = embryonic.lookup(&drafted->pair_key);

	if (!quota || !flow || !pair)
		return;
	if (quota->used + 2 > most) {
		__sync_fetch_and_add(&quota->refused, 1);
		return;
	}
	if (flows.update(&drafted->key, flow)) {
		__sync_fetch_and_add(&quota->refused, 1);
		return;
	}
	if (flows.update(&drafted->pair_key, pair)) {
		flows.delete(&drafted->key);
		__sync_fetch_and_add(&quota->refused, 1);
		return;
	}
	__sync_fetch_and_add(&quota->used, 2);
	embryonic.delete(&drafted->key);
	embryonic.delete(&drafted->pair_key);
}

/* Write the pair and account for the packet. */
pilus_always void pilus_write(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_settings *now,
			      struct pilus_draft *drafted)
{
	struct pilus_flow *flow, *pair, *own;
	u32 seconds = pilus_seconds();
	bool payload = packet->size > packet->headers;
	u8 state = PILUS_FLOW_OTHER;

	if (packet->protocol == PILUS_IPPROTO_TCP)
		state = packet->tcp_flags & (PILUS_TCP_FIN | PILUS_TCP_RST) ? PILUS_FLOW_CLOSING : PILUS_FLOW_SYN;
	drafted->flow.state = state;
	drafted->pair.state = state;
	drafted->flow.created = seconds;
	drafted->pair.created = seconds;
	drafted->flow.last_seen = seconds;
	drafted->pair.last_seen = seconds;
	flow = pilus_enter(&drafted->key, &drafted->flow, now, seconds, !packet->reply, packet->reply);
	pair = pilus_enter(&drafted->pair_key, &drafted->pair, now, seconds, packet->reply, packet->reply);
	if (packet->reply && flow && pair) {
		pilus_promote(drafted, now);
		flow = pilus_held(&drafted->key);
		pair = pilus_held(&drafted->pair_key);
	}
	own = packet->reply ? pair : flow;
	if (!own)
		return;
	pilus_note(skb, own, packet->tcp_flags, seconds);
	if (flow)
		pilus_touch(flow, seconds);
	if (pair)
		pilus_touch(pair, seconds);
	if (packet->protocol != PILUS_IPPROTO_TCP)
		return;
	if ((packet->tcp_flags & (PILUS_TCP_SYN | PILUS_TCP_ACK)) == PILUS_TCP_SYN && !packet->reply &&
	    own->state == PILUS_FLOW_CLOSING)
		state = PILUS_FLOW_SYN;		/* the tuple is used again */
	else
		state = pilus_next_state(own->state, packet->tcp_flags, payload, !flows.lookup(&drafted->key));
	if (flow)
		flow->state = state;
	if (pair)
		pair->state = state;
}
