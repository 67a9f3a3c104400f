/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The slow path's second half: what becomes of a packet and of its connection. Decide, translate where it leaves for the outside,
 * commit to the flow table, and send it on.
 */
#include "commit.h"
#include "nat.h"
#include "related.h"
#include "socket_of.h"
#include "toobig.h"

/* To the commit; by way of a new port where it leaves for the outside. */
pilus_always void pilus_onward(struct __sk_buff *skb, const struct pilus_packet *packet, const struct pilus_draft *drafted)
{
	if (drafted->flow.path == PILUS_PATH_OUTSIDE)
		calls.call(skb, packet->related ? PILUS_CALL_NAT_ERROR : PILUS_CALL_NAT);
	else
		calls.call(skb, PILUS_CALL_COMMIT);
}

/* A decision's end: to the commit, or refused. A refusal of a connection that was allowed is news; a second one is not. */
pilus_always int pilus_decided(struct __sk_buff *skb, struct pilus_packet *packet, struct pilus_draft *drafted, int result)
{
	if (!result) {
		pilus_finish(packet, drafted);
		if (packet->audit & (PILUS_AUDIT_INGRESS | PILUS_AUDIT_EGRESS))
			calls.call(skb, PILUS_CALL_AUDIT);
		else
			pilus_onward(skb, packet, drafted);
		result = -PILUS_DROP_MISSED_TAIL_CALL;
	} else if (packet->held) {
		struct pilus_flow *held = pilus_held(packet->reply ? &drafted->pair_key : &drafted->key);

		packet->quiet = packet->denied;
		if (held)
			held->flags |= PILUS_FLOW_DENIED;
	}
	return pilus_exit(skb, packet, result);
}

/* Inlined with the decision that is named: there is no call by a pointer left. */
pilus_always int pilus_conclude(struct __sk_buff *skb, int (*decide)(struct pilus_packet *packet, const struct pilus_settings *now,
								     struct pilus_draft *drafted))
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_draft *drafted = draft.lookup(&zero);

	if (!packet || !now || !drafted)
		return PILUS_ACT_SHOT;
	return pilus_decided(skb, packet, drafted, decide(packet, now, drafted));
}

PILUS_TAIL(PILUS_CALL_DECIDE_POD, decide_pod)
{
	return pilus_conclude(skb, pilus_decide_pod);
}

PILUS_TAIL(PILUS_CALL_DECIDE_OVERLAY, decide_overlay)
{
	return pilus_conclude(skb, pilus_decide_overlay);
}

/* Whether a packet of the host's own is an answer, although no entry says so: then the other direction is decided on. */
pilus_always bool pilus_answers_host(struct __sk_buff *skb, u8 zone)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_draft *drafted = draft.lookup(&zero);

	if (!packet || !now || !drafted || !(now->flags & PILUS_SETTING_HOST_FIREWALL) || !pilus_is_amid(packet))
		return false;
	if (zone == PILUS_ZONE_UPLINK_IN ?
	    pilus_endpoint_of(packet->family, &packet->destination) || !pilus_host_began(skb, packet) :
	    !pilus_is_listening(skb, packet->family, &packet->source, packet->source_port))
		return false;
	pilus_as_reply(packet, drafted, zone == PILUS_ZONE_UPLINK_IN ? PILUS_ZONE_UPLINK_OUT : PILUS_ZONE_UPLINK_IN);
	return true;
}

PILUS_TAIL(PILUS_CALL_DECIDE_UPLINK, decide_uplink)
{
	if (pilus_answers_host(skb, PILUS_ZONE_UPLINK_IN))
		return pilus_conclude(skb, pilus_decide_leave);
	return pilus_conclude(skb, pilus_decide_uplink);
}

PILUS_TAIL(PILUS_CALL_DECIDE_HOST, decide_host)
{
	return pilus_conclude(skb, pilus_decide_host);
}

PILUS_TAIL(PILUS_CALL_DECIDE_LEAVE, decide_leave)
{
	if (pilus_answers_host(skb, PILUS_ZONE_UPLINK_OUT))
		return pilus_conclude(skb, pilus_decide_enter);
	return pilus_conclude(skb, pilus_decide_leave);
}

PILUS_TAIL(PILUS_CALL_AUDIT, audit)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_draft *drafted = draft.lookup(&zero);
	struct pilus_endpoint *endpoint;

	if (!packet || !drafted)
		return PILUS_ACT_SHOT;
	if (packet->audit & PILUS_AUDIT_EGRESS) {
		endpoint = packet->source_identity == PILUS_IDENTITY_HOST ? pilus_host_endpoint() :
			   pilus_endpoint_of(packet->family, &packet->source);
		if (endpoint)
			pilus_audit(skb, packet, endpoint, PILUS_DIRECTION_EGRESS, packet->destination_identity, &packet->destination,
				    packet->audit & PILUS_AUDIT_OUTSIDE);
	}
	if ((packet->audit & (PILUS_AUDIT_INGRESS | PILUS_AUDIT_REFUSED)) == PILUS_AUDIT_INGRESS) {
		endpoint = packet->destination_identity == PILUS_IDENTITY_HOST ? pilus_host_endpoint() :
			   pilus_endpoint_of(packet->family, &packet->destination);
		if (endpoint)
			pilus_audit(skb, packet, endpoint, PILUS_DIRECTION_INGRESS, packet->source_identity, &packet->source,
				    packet->audit & PILUS_AUDIT_OUTSIDE);
	}
	if (packet->audit & PILUS_AUDIT_REFUSED) {
		drafted->flow.flags |= PILUS_FLOW_AUDITED;
		drafted->pair.flags |= PILUS_FLOW_AUDITED;
	}
	pilus_onward(skb, packet, drafted);
	return pilus_exit(skb, packet, -PILUS_DROP_MISSED_TAIL_CALL);
}

/* A connection to the outside gets its port, or keeps it. */
PILUS_TAIL(PILUS_CALL_NAT, nat)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_draft *drafted = draft.lookup(&zero);
	int result;

	if (!packet || !now || !drafted)
		return PILUS_ACT_SHOT;
	result = pilus_choose_port(skb, packet, now, drafted);
	if (!result) {
		calls.call(skb, PILUS_CALL_COMMIT);
		result = -PILUS_DROP_MISSED_TAIL_CALL;
	}
	return pilus_exit(skb, packet, result);
}

/* A pod's error about what came to it from the outside. */
PILUS_TAIL(PILUS_CALL_NAT_ERROR, nat_error)
{
	struct pilus_packet *packet = pilus_scratch();
	struct pilus_inner inner = {};
	struct pilus_flow *held;
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result = -PILUS_DROP_NAT_NO_MAPPING;

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	if (packet->ttl <= 1)
		return pilus_exit(skb, packet, -PILUS_DROP_TTL_EXCEEDED);
	if (pilus_read_inner(skb, packet, &inner) && pilus_same_address(&inner.key.source, &packet->source)) {
		held = pilus_held(&inner.key);
		if (held && held->path == PILUS_PATH_OUTSIDE)
			result = pilus_translate_error(skb, packet, &inner, held);
	}
	if (!result)
		result = pilus_out(now->uplink_ifindex);
	return pilus_exit(skb, packet, result);
}

/* The fast path of a masqueraded flow, both ways. */
PILUS_TAIL(PILUS_CALL_TRANSLATE, translate)
{
	struct pilus_packet *packet = pilus_scratch();
	struct pilus_glance seen = {};
	u32 zero = 0;
	struct pilus_draft *drafted = draft.lookup(&zero);
	u32 hook, zone;
	int result;

	if (!packet || !drafted)
		return PILUS_ACT_SHOT;
	seen.key = drafted->key;
	seen.size = packet->size;
	seen.headers = packet->headers;
	seen.tcp_flags = packet->tcp_flags;
	hook = packet->hook;
	zone = seen.key.zone;
	result = pilus_fast_translate(skb, packet, &seen);
	if (result != PILUS_SLOW)
		return result < 0 ? pilus_exit(skb, packet, result) : result;
	packet = pilus_begin(hook);
	if (!packet)
		return PILUS_ACT_SHOT;
	packet->zone = zone;
	if (zone == PILUS_ZONE_POD_OUT)
		return pilus_parse_slowly(skb, packet);
	return pilus_uplink_slowly(skb, packet);
}

PILUS_TAIL(PILUS_CALL_COMMIT, commit)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_draft *drafted = draft.lookup(&zero);
	struct pilus_flow *own;
	int result;
	bool news;

	if (!packet || !now || !drafted)
		return PILUS_ACT_SHOT;
	own = packet->reply ? &drafted->pair : &drafted->flow;
	if (packet->ttl <= 1 && own->path != PILUS_PATH_HOST && packet->zone != PILUS_ZONE_HOST_OUT)
		return pilus_exit(skb, packet, -PILUS_DROP_TTL_EXCEEDED);
	if (packet->zone == PILUS_ZONE_POD_OUT && own->mtu && packet->size > own->mtu &&
	    pilus_wire_size(skb, packet->size, packet->headers) > own->mtu) {
		packet->mtu = own->mtu;
		calls.call(skb, PILUS_CALL_TOO_BIG);
		return pilus_exit(skb, packet, -PILUS_DROP_MISSED_TAIL_CALL);
	}
	if (!packet->uncached) {
		if (packet->reply) {	/* as it came, not as it was expected */
			own->vni = packet->vni;
			own->outer = packet->outer;
		} else if (drafted->flow.path != PILUS_PATH_OUTSIDE) {
			pilus_turn_key(&drafted->pair_key, &drafted->key, drafted->pair.zone);
		} else {
			result = pilus_agree(packet, now, drafted, pilus_seconds());
			if (result)
				return pilus_exit(skb, packet, result);
		}
		pilus_write(skb, packet, now, drafted);
	}
	if (own->path >= PILUS_PATH_OUTSIDE)
		result = pilus_translate(skb, own, packet->reply ? &drafted->pair_key : &drafted->key, packet->l4_offset,
					 packet->fragment == PILUS_FRAGMENT_LATER);
	else
		result = pilus_replay(skb, own, packet->family, packet->hook);
	news = !packet->held || packet->denied ||
	       (packet->audit & (PILUS_AUDIT_REFUSED | PILUS_AUDIT_KNOWN)) == PILUS_AUDIT_REFUSED;
	if (result >= 0 && !packet->uncached && news)
		pilus_report(skb, packet, 0);
	return pilus_exit(skb, packet, result);
}

PILUS_TAIL(PILUS_CALL_TOO_BIG, too_big)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	return pilus_answer_too_big(skb, packet, now);
}
