/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Attached to the link to the other nodes and the outside. What comes in is the node's own business (its kubelet, its SSH, its
 * tunnel), and passes untouched, unless it answers to a masqueraded flow or is for a pod. What goes out passes, unless it bears
 * a pod's address where it should not. A node that has a policy is asked about its own, both ways (host.c).
 *
 * The link may have filters of others: ours say "pass", never "accept before the next", to what is not ours.
 */
#include "host.h"
#include "nat.h"

/* The IPv4 header, if all of it and four bytes more are at hand. */
pilus_always struct iphdr *pilus_ipv4_at_hand(struct __sk_buff *skb)
{
	struct iphdr *ip = (void *)(long)skb->data + PILUS_ETHERNET_LENGTH;

	if (skb->protocol != bpf_htons(PILUS_ETHERTYPE_IPV4) || (void *)(ip + 1) + 4 > (void *)(long)skb->data_end)
		return NULL;
	return ip;
}

/* Whether a packet is this node's own at first sight: whole, to its IPv4 address, and to a port that no masqueraded flow has.
 * Most of what comes in (every packet of the tunnel) ends here. Says nothing of what it says no to. */
pilus_always bool pilus_is_own(struct __sk_buff *skb, const struct pilus_settings *now)
{
	struct iphdr *ip = pilus_ipv4_at_hand(skb);

	if (!ip || *(u8 *)ip != 0x45 || ip->frag_off & bpf_htons(0x3fff) || ip->daddr != now->node_ipv4.word[0])
		return false;
	if (ip->protocol != PILUS_IPPROTO_UDP && ip->protocol != PILUS_IPPROTO_TCP)
		return false;
	return !pilus_is_nat_port(*(__be16 *)((void *)(ip + 1) + 2), now);
}

/* Cost for what is the node's own: a look at the headers. No table is asked, but where the port is one of masquerading's. */
PILUS_PROGRAM(sched_cls, uplink_from)
{
	struct pilus_glance seen = { .key.zone = PILUS_ZONE_UPLINK_IN };
	u32 zero = 0, flags = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	if (!now || !(now->flags & PILUS_SETTING_READY) || pilus_is_of_vlan(skb))
		goto own;
	flags = now->flags;
	if (pilus_is_own(skb, now))
		goto own;
	if (!pilus_glance_at(skb, &seen)) {
		bool mine = pilus_is_node(seen.key.family, &seen.key.destination, now);

		if (mine && !pilus_is_nat_port(seen.key.destination_port, now))
			goto own;
		if (mine || (now->flags & (PILUS_SETTING_TUNNEL | PILUS_SETTING_HOST_FIREWALL)) != PILUS_SETTING_TUNNEL) {
			result = pilus_fast_seen(skb, &seen, PILUS_ZONE_UPLINK_IN, PILUS_HOOK_UPLINK_FROM, now, NULL);
			if (result >= 0)
				return result;
		}
	} else if (skb->protocol != bpf_htons(PILUS_ETHERTYPE_IPV4) && skb->protocol != bpf_htons(PILUS_ETHERTYPE_IPV6)) {
		goto own;
	}
	calls.call(skb, PILUS_CALL_UPLINK_SLOW);
	return pilus_missed(skb, PILUS_HOOK_UPLINK_FROM);
own:
	return pilus_own(skb, PILUS_HOOK_UPLINK_FROM, flags);
}

PILUS_TAIL(PILUS_CALL_UPLINK_SLOW, uplink_slow)
{
	struct pilus_packet *packet = pilus_begin(PILUS_HOOK_UPLINK_FROM);

	if (!packet)
		return PILUS_ACT_SHOT;
	packet->zone = PILUS_ZONE_UPLINK_IN;
	return pilus_uplink_slowly(skb, packet);
}

/* To this node's own address: one that answers to a masqueraded flow goes on, ending in a tail call; all else is the stack's. */
pilus_always int pilus_answers(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_settings *now)
{
	struct pilus_flow_key key = { .zone = PILUS_ZONE_UPLINK_IN };
	struct pilus_flow *held;

	if (packet->fragment == PILUS_FRAGMENT_LATER) {
		if (pilus_part(skb, packet))
			return PILUS_ACT_PIPE;
	} else if (packet->uncached) {
		if (!pilus_is_error(packet->protocol, packet->icmp_type))
			return PILUS_ACT_PIPE;
		calls.call(skb, PILUS_CALL_UPLINK_ERROR);
		return -PILUS_DROP_MISSED_TAIL_CALL;
	}
	/* Nobody begins a connection with a port that was given out to a pod; where its record closes, the stack refuses. */
	if (!pilus_is_nat_port(packet->destination_port, now) ||
	    (packet->tcp_flags & (PILUS_TCP_SYN | PILUS_TCP_ACK)) == PILUS_TCP_SYN)
		return PILUS_ACT_PIPE;
	key.family = packet->family;
	key.protocol = packet->protocol;
	key.source_port = packet->source_port;
	key.destination_port = packet->destination_port;
	key.source = packet->source;
	key.destination = packet->destination;
	held = pilus_held(&key);
	if (!held || held->path != PILUS_PATH_BACK || pilus_expired(held, now, pilus_seconds()))
		return PILUS_ACT_PIPE;
	if (packet->fragment == PILUS_FRAGMENT_FIRST)
		pilus_part(skb, packet);
	calls.call(skb, PILUS_CALL_ARRIVE_UPLINK);
	return -PILUS_DROP_MISSED_TAIL_CALL;
}

/* What the headers say, whole or not: addresses are read before anything is refused. PILUS_ACT_PIPE: it is the stack's. */
pilus_always int pilus_uplink_parsed(struct __sk_buff *skb, struct pilus_packet *packet, int result)
{
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_pod_range *range;

	if (!now)
		return PILUS_ACT_PIPE;
	if (pilus_is_node(packet->family, &packet->destination, now))
		return result ? PILUS_ACT_PIPE : pilus_answers(skb, packet, now);
	if (!packet->family)	/* not even addresses */
		return PILUS_ACT_PIPE;
	range = pilus_pod_range_of(packet->family, &packet->destination);
	if (!range)
		return PILUS_ACT_PIPE;
	if (now->flags & PILUS_SETTING_TUNNEL)
		return -PILUS_DROP_AROUND_TUNNEL;
	if (pilus_is_router(packet->family, &packet->destination, now))
		return PILUS_ACT_PIPE;
	if (!(range->flags & PILUS_IPCACHE_LOCAL))
		return -PILUS_DROP_UNROUTABLE;
	if (!result && pilus_is_link_message(packet))
		result = -PILUS_DROP_FORBIDDEN_ICMP6;
	if (!result)
		result = pilus_part(skb, packet);
	if (result)
		return result;
	calls.call(skb, PILUS_CALL_ARRIVE_UPLINK);
	return -PILUS_DROP_MISSED_TAIL_CALL;
}

/* What is the stack's, if this host has no policy; else that one is asked, in a tail call, also about what could not be parsed whole. */
pilus_always int pilus_enters(struct __sk_buff *skb, struct pilus_packet *packet, int parsed)
{
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	if (!now || !(now->flags & PILUS_SETTING_HOST_FIREWALL) || pilus_is_of_link(packet))
		return PILUS_ACT_PIPE;
	result = pilus_host_parsed(skb, packet, parsed);
	if (result)
		return pilus_host_enforces(PILUS_ENDPOINT_INGRESS_ENFORCED) ? result : PILUS_ACT_PIPE;
	calls.call(skb, PILUS_CALL_ARRIVE_UPLINK);
	return -PILUS_DROP_MISSED_TAIL_CALL;
}

pilus_always int pilus_uplink(struct __sk_buff *skb, struct pilus_packet *packet, int parsed)
{
	int result = pilus_uplink_parsed(skb, packet, parsed);

	return pilus_exit(skb, packet, result == PILUS_ACT_PIPE ? pilus_enters(skb, packet, parsed) : result);
}

PILUS_TAIL(PILUS_CALL_UPLINK_IPV4, uplink_ipv4)
{
	struct pilus_packet *packet = pilus_scratch();

	if (!packet)
		return PILUS_ACT_SHOT;
	return pilus_uplink(skb, packet, pilus_parse_ipv4(skb, packet));
}

PILUS_TAIL(PILUS_CALL_UPLINK_IPV6, uplink_ipv6)
{
	struct pilus_packet *packet = pilus_scratch();

	if (!packet)
		return PILUS_ACT_SHOT;
	return pilus_uplink(skb, packet, pilus_parse_ipv6(skb, packet));
}

/* An error to this node's address, about what it has sent: for a pod, if that was masqueraded. It makes no entry, refreshes
 * none, and is the stack's if we know nothing of it. */
PILUS_TAIL(PILUS_CALL_UPLINK_ERROR, uplink_error)
{
	struct pilus_packet *packet = pilus_scratch();
	struct pilus_inner inner = {};
	struct pilus_endpoint *to;
	struct pilus_flow *held;
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_flow into = {};
	int result;

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	if (!pilus_read_inner(skb, packet, &inner))
		return pilus_exit(skb, packet, pilus_enters(skb, packet, 0));
	held = pilus_held(&inner.key);
	if (!held || held->path != PILUS_PATH_BACK || pilus_expired(held, now, pilus_seconds()))
		return pilus_exit(skb, packet, pilus_enters(skb, packet, 0));
	packet->source_identity = held->source_identity;
	if (held->flags & PILUS_FLOW_DENIED)
		return pilus_exit(skb, packet, -PILUS_DROP_POLICY);
	/* The entry's conclusion may be of a pod that is gone. */
	to = pilus_endpoint_of(packet->family, &held->nat);
	if (!to || !(to->flags & PILUS_ENDPOINT_READY) || to->ifindex != held->pair_link)
		return pilus_exit(skb, packet, -PILUS_DROP_NO_LOCAL_ENDPOINT);
	packet->endpoint = to->number;
	packet->destination_identity = to->identity;
	if (packet->ttl <= 1)
		return pilus_exit(skb, packet, -PILUS_DROP_TTL_EXCEEDED);
	result = pilus_translate_error(skb, packet, &inner, held);
	if (!result) {
		pilus_into_pod(&into, to);
		result = pilus_into(skb, &into);
	}
	return pilus_exit(skb, packet, result);
}

/* Every packet that leaves, the tunnel's and our own masqueraded ones among them: those bear this node's address. */
PILUS_PROGRAM(sched_cls, uplink_to)
{
	struct pilus_address source = {}, destination = {};
	struct pilus_packet *packet;
	u32 zero = 0, flags = 0, family;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_ipcache *known;
	struct iphdr *ip = pilus_ipv4_at_hand(skb);

	if (!now || !(now->flags & PILUS_SETTING_READY))
		goto own;
	if (!pilus_is_of_vlan(skb))
		flags = now->flags;
	if (ip && ip->saddr == now->node_ipv4.word[0])
		goto own;
	if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV4)) {
		family = PILUS_FAMILY_IPV4;
		if (bpf_skb_load_bytes(skb, PILUS_ETHERNET_LENGTH + 12, &source, 4) ||
		    bpf_skb_load_bytes(skb, PILUS_ETHERNET_LENGTH + 16, &destination, 4))
			goto own;
	} else if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV6)) {
		family = PILUS_FAMILY_IPV6;
		if (bpf_skb_load_bytes(skb, PILUS_ETHERNET_LENGTH + 8, &source, 16) ||
		    bpf_skb_load_bytes(skb, PILUS_ETHERNET_LENGTH + 24, &destination, 16))
			goto own;
	} else {
		goto own;
	}
	if (pilus_is_node(family, &source, now) || !pilus_pod_range_of(family, &source))
		goto own;
	if (!(now->flags & PILUS_SETTING_TUNNEL)) {
		known = pilus_ipcache_of(family, &destination);
		if ((known && known->flags & PILUS_IPCACHE_NODE) || pilus_pod_range_of(family, &destination))
			goto own;
	}
	packet = pilus_begin(PILUS_HOOK_UPLINK_TO);
	if (!packet)
		return PILUS_ACT_SHOT;
	packet->zone = PILUS_ZONE_UPLINK_OUT;
	packet->family = family;
	packet->source = source;
	packet->destination = destination;
	return pilus_drop(skb, packet, -PILUS_DROP_UNTRANSLATED);
own:
	return pilus_own(skb, PILUS_HOOK_UPLINK_TO, flags);
}
