/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The host firewall: what comes to this host's own stack by the uplink, and what that one sends by it, where it has a policy. Its
 * connections are flows as any others, so that an answer needs no rule of its own. What goes by other hooks (to and from its pods, by
 * the tunnel) is judged where it is decided (decide.h).
 */
#include "host.h"
#include "nat.h"

/* What a tunnel's link takes or has sent, between this node's address and another node's: what is in it is judged there. */
pilus_always bool pilus_is_tunnels(const struct pilus_glance *seen, const struct pilus_settings *now, const struct pilus_address *here,
				   const struct pilus_address *there)
{
	struct pilus_ipcache *known;

	if (!(now->flags & PILUS_SETTING_HOST_TUNNEL) || seen->key.protocol != PILUS_IPPROTO_UDP || !now->tunnel_port ||
	    seen->key.destination_port != bpf_htons(now->tunnel_port) || !pilus_is_node(seen->key.family, here, now))
		return false;
	known = pilus_ipcache_of(seen->key.family, there);
	return known && known->flags & PILUS_IPCACHE_NODE;
}

/* Neither IPv4 nor IPv6, by what is said of it. A tag behind the one that has been taken off may hide either from us, and not from the
 * stack; and who sends a frame as it is says by himself what it holds. */
pilus_always int pilus_not_ip(struct __sk_buff *skb, struct pilus_packet *packet, u32 direction)
{
	__be16 held = 0;
	int result = PILUS_ACT_PIPE;

	if (!pilus_host_enforces(direction))
		return pilus_exit(skb, packet, result);
	if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_VLAN) || skb->protocol == bpf_htons(PILUS_ETHERTYPE_VLAN_SERVICE))
		result = -PILUS_DROP_VLAN;
	else if (bpf_skb_load_bytes(skb, PILUS_ETHERNET_LENGTH - sizeof(held), &held, sizeof(held)) || held != skb->protocol)
		result = -PILUS_DROP_INVALID;
	return pilus_exit(skb, packet, result);
}

/* The fast path: one look at the headers, and the flow table's. */
PILUS_TAIL(PILUS_CALL_HOST_IN, host_in)
{
	struct pilus_glance seen = { .key.zone = PILUS_ZONE_UPLINK_IN };
	struct pilus_packet *packet;
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	if (now && !pilus_glance_at(skb, &seen)) {
		if (pilus_is_tunnels(&seen, now, &seen.key.destination, &seen.key.source))
			return pilus_pass_on(skb, PILUS_HOOK_UPLINK_FROM);
		result = pilus_fast_seen(skb, &seen, PILUS_ZONE_UPLINK_IN, PILUS_HOOK_UPLINK_FROM, now, NULL);
		if (result >= 0)
			return result;
	}
	packet = pilus_begin(PILUS_HOOK_UPLINK_FROM);
	if (!packet)
		return PILUS_ACT_SHOT;
	packet->zone = PILUS_ZONE_UPLINK_IN;
	if (skb->protocol != bpf_htons(PILUS_ETHERTYPE_IPV4) && skb->protocol != bpf_htons(PILUS_ETHERTYPE_IPV6))
		return pilus_not_ip(skb, packet, PILUS_ENDPOINT_INGRESS_ENFORCED);
	return pilus_uplink_slowly(skb, packet);
}

PILUS_TAIL(PILUS_CALL_HOST_OUT, host_out)
{
	struct pilus_glance seen = { .key.zone = PILUS_ZONE_UPLINK_OUT };
	struct pilus_packet *packet;
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	/* Pods' packets that our own programs send: nothing else goes on from a pod's link. */
	if (skb->ingress_ifindex && pilus_endpoint_at(skb->ingress_ifindex))
		return pilus_pass_on(skb, PILUS_HOOK_UPLINK_TO);
	if (now && !pilus_glance_at(skb, &seen)) {
		if (pilus_is_tunnels(&seen, now, &seen.key.source, &seen.key.destination))
			return pilus_pass_on(skb, PILUS_HOOK_UPLINK_TO);
		result = pilus_fast_seen(skb, &seen, PILUS_ZONE_UPLINK_OUT, PILUS_HOOK_UPLINK_TO, now, NULL);
		if (result >= 0)
			return result;
	}
	packet = pilus_begin(PILUS_HOOK_UPLINK_TO);
	if (!packet)
		return PILUS_ACT_SHOT;
	packet->zone = PILUS_ZONE_UPLINK_OUT;
	if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV4))
		calls.call(skb, PILUS_CALL_LEAVE_IPV4);
	else if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV6))
		calls.call(skb, PILUS_CALL_LEAVE_IPV6);
	else
		return pilus_not_ip(skb, packet, PILUS_ENDPOINT_EGRESS_ENFORCED);
	return pilus_exit(skb, packet, -PILUS_DROP_MISSED_TAIL_CALL);
}

/* What the stack sends; what it forwards for others is theirs, unless it bears this host's address. */
pilus_always int pilus_leaves(struct __sk_buff *skb, struct pilus_packet *packet, int parsed)
{
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	if (!now)
		return -PILUS_DROP_NO_CONFIG;
	if (pilus_is_of_link(packet) || (skb->ingress_ifindex && !pilus_is_node(packet->family, &packet->source, now)))
		return PILUS_ACT_PIPE;
	result = pilus_host_parsed(skb, packet, parsed);
	if (result)
		return pilus_host_enforces(PILUS_ENDPOINT_EGRESS_ENFORCED) ? result : PILUS_ACT_PIPE;
	calls.call(skb, PILUS_CALL_ARRIVE_LEAVE);
	return -PILUS_DROP_MISSED_TAIL_CALL;
}

PILUS_TAIL(PILUS_CALL_LEAVE_IPV4, leave_ipv4)
{
	struct pilus_packet *packet = pilus_scratch();

	if (!packet)
		return PILUS_ACT_SHOT;
	return pilus_exit(skb, packet, pilus_leaves(skb, packet, pilus_parse_ipv4(skb, packet)));
}

PILUS_TAIL(PILUS_CALL_LEAVE_IPV6, leave_ipv6)
{
	struct pilus_packet *packet = pilus_scratch();

	if (!packet)
		return PILUS_ACT_SHOT;
	return pilus_exit(skb, packet, pilus_leaves(skb, packet, pilus_parse_ipv6(skb, packet)));
}
