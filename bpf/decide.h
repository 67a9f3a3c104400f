/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a packet to the two conclusions of its connection: the forward direction's and the reply's. Works on the forward
 * direction always, also where a reply asked: addresses and ports in the packet are turned around by then.
 *
 * Generations are read before any table, so that a table written in between makes the conclusion stale at birth.
 */
#pragma once
#include "flow.h"
#include "policy.h"

/* The slot of an address that is no local endpoint's; abi.h says it for user space. */
pilus_always u32 pilus_slot_of(const struct pilus_address *address)
{
	u32 mixed = address->word[0] ^ address->word[1] ^ address->word[2] ^ address->word[3];

	return PILUS_GENERATION_ADDRESSES + (mixed * (u32)PILUS_GENERATION_FACTOR >> 17);
}

pilus_always u32 pilus_slot_at(const struct pilus_endpoint *endpoint, const struct pilus_address *address)
{
	return endpoint ? endpoint->slot & (PILUS_GENERATION_SLOTS - 1) : pilus_slot_of(address);
}

pilus_always void pilus_stamp(struct pilus_flow *flow, u32 local, u32 remote)
{
	flow->slot[0] = 0;
	flow->slot[1] = local;
	flow->slot[2] = remote;
	flow->generation[0] = pilus_generation_of(0);
	flow->generation[1] = pilus_generation_of(local);
	flow->generation[2] = pilus_generation_of(remote);
}

/* Whether it is another node's own stack, whatever else is known of that node. */
pilus_always bool pilus_is_remote_node(u32 identity)
{
	return identity == PILUS_IDENTITY_REMOTE_NODE || identity == PILUS_IDENTITY_KUBE_APISERVER ||
	       identity >> PILUS_IDENTITY_SCOPE_SHIFT == PILUS_IDENTITY_SCOPE_REMOTE_NODE;
}

/* What goes into a tunnel's number for an identity: every node sends as a node, for its number differs on every other. */
pilus_always u32 pilus_wire_identity(u32 identity)
{
	return pilus_is_remote_node(identity) ? PILUS_IDENTITY_REMOTE_NODE : identity;
}

/* Whether address rules of the outside scope mean this address although it is known: another node's, if the settings say so. */
pilus_always bool pilus_node_counts(const struct pilus_settings *now, const struct pilus_ipcache *known)
{
	return now->flags & PILUS_SETTING_CIDR_NODES && known->flags & (PILUS_IPCACHE_NODE | PILUS_IPCACHE_ROUTER) &&
	       !(known->flags & PILUS_IPCACHE_LOCAL);
}

pilus_always void pilus_into_pod(struct pilus_flow *flow, const struct pilus_endpoint *to)
{
	flow->path = PILUS_PATH_POD;
	flow->ifindex = to->ifindex;
	pilus_copy_mac(flow->destination_mac, to->mac);
	pilus_copy_mac(flow->source_mac, to->gateway_mac);
}

pilus_always void pilus_into_tunnel(struct pilus_flow *flow, const struct pilus_settings *now, const struct pilus_address *node,
				    u32 number)
{
	flow->path = PILUS_PATH_TUNNEL;
	flow->ifindex = now->tunnel_ifindex;
	flow->tunnel = *node;
	flow->tunnel_id = number;
	flow->mtu = now->tunnel_mtu;
}

pilus_always void pilus_into_uplink(struct pilus_flow *flow, const struct pilus_settings *now)
{
	flow->path = PILUS_PATH_DIRECT;
	flow->ifindex = now->uplink_ifindex;
	flow->mtu = now->uplink_mtu;
}

/* An address that no packet is routed to: this machine's own, a link's, a group, nobody's. */
pilus_always bool pilus_is_special(u32 family, const struct pilus_address *address)
{
	const u8 *byte = (const u8 *)address;

	if (family == PILUS_FAMILY_IPV4)
		return byte[0] == 0 || byte[0] == 127 || byte[0] >= 224;
	return byte[0] == 0xff || (byte[0] == 0xfe && byte[1] >= 0x80) || (!address->word[0] && !address->word[1]);
}

/* To what is no pod's: with this node's own address. Which port, is chosen later (nat.h). */
pilus_always int pilus_into_outside(const struct pilus_packet *packet, const struct pilus_settings *now, struct pilus_flow *flow,
				    struct pilus_flow *pair)
{
	bool ipv4 = packet->family == PILUS_FAMILY_IPV4;

	if (!(now->flags & (ipv4 ? PILUS_SETTING_MASQUERADE_IPV4 : PILUS_SETTING_MASQUERADE_IPV6)) || !now->uplink_ifindex)
		return -PILUS_DROP_OUTSIDE;
	if (pilus_is_special(packet->family, &packet->destination))
		return -PILUS_DROP_UNROUTABLE;
	flow->nat = ipv4 ? now->node_ipv4 : now->node_ipv6;
	if (pilus_is_special(packet->family, &flow->nat))	/* this node has no address of this family */
		return -PILUS_DROP_OUTSIDE;
	/* SCTP's checksum covers its ports and has no helper: two pods with one port could not be told apart. */
	if (!packet->related && packet->protocol != PILUS_IPPROTO_TCP && packet->protocol != PILUS_IPPROTO_UDP &&
	    !((packet->protocol == PILUS_IPPROTO_ICMP || packet->protocol == PILUS_IPPROTO_ICMPV6) &&
	      pilus_is_echo_request(packet->protocol, packet->icmp_type)))
		return -PILUS_DROP_NAT_PROTOCOL;
	pilus_into_uplink(flow, now);
	flow->path = PILUS_PATH_OUTSIDE;
	pair->zone = PILUS_ZONE_UPLINK_IN;
	pair->link = now->uplink_ifindex;
	pair->path = PILUS_PATH_BACK;
	pair->nat = packet->source;
	pair->nat_port = packet->source_port;
	return 0;
}

/* What both conclusions have in common, once the forward one stands. */
pilus_always void pilus_finish(struct pilus_packet *packet, struct pilus_draft *drafted)
{
	struct pilus_flow *flow = &drafted->flow, *pair = &drafted->pair;

	for (int i = 0; i < 3; i++) {
		pair->slot[i] = flow->slot[i];
		pair->generation[i] = flow->generation[i];
	}
	flow->role = PILUS_FLOW_FORWARD;
	pair->role = PILUS_FLOW_REPLY;
	flow->source_identity = packet->source_identity;
	flow->destination_identity = packet->destination_identity;
	pair->source_identity = packet->destination_identity;
	pair->destination_identity = packet->source_identity;
	flow->rule = packet->rule;
	pair->rule = packet->rule;
	flow->pair_zone = pair->zone;
	pair->pair_zone = flow->zone;
	flow->pair_link = pair->link;
	pair->pair_link = flow->link;
	pair->endpoint = flow->endpoint;
	packet->path = packet->reply ? pair->path : flow->path;
}

/* May it, by this endpoint's policy? What belongs to a connection that may, need not ask. */
pilus_always int pilus_may(struct pilus_packet *packet, const struct pilus_endpoint *endpoint, u32 direction, u32 peer,
			   const struct pilus_address *address, bool outside)
{
	return packet->related ? 0 : pilus_judge(packet, endpoint, direction, peer, address, outside);
}

/* Who is behind an address that is no local pod's, and whether address rules of the outside scope mean it. */
pilus_always u32 pilus_who(u32 family, const struct pilus_address *address, const struct pilus_settings *now, bool *outside)
{
	struct pilus_ipcache *known = pilus_ipcache_of(family, address);
	bool pod = pilus_pod_range_of(family, address);

	*outside = known && known->flags ? pilus_node_counts(now, known) : !pod;
	if (known)
		return known->identity;
	return pod ? PILUS_IDENTITY_UNKNOWN : PILUS_IDENTITY_WORLD;
}

/* May it, by this host's own policy, if it has one? */
pilus_always int pilus_host_may(struct pilus_packet *packet, const struct pilus_settings *now, u32 direction, u32 peer,
				const struct pilus_address *address, bool outside)
{
	struct pilus_endpoint *host;

	if (!(now->flags & PILUS_SETTING_HOST_FIREWALL))
		return 0;
	/* The row is there before the flag, and goes after it: where it is missing, the last policy has just gone. */
	host = pilus_host_endpoint();
	return host ? pilus_may(packet, host, direction, peer, address, outside) : 0;
}

/* A pod of this node sends: to a pod here, to another node (a pod of it, or its router address), to this host. */
pilus_always int pilus_decide_pod(struct pilus_packet *packet, const struct pilus_settings *now, struct pilus_draft *drafted)
{
	struct pilus_endpoint *from = pilus_endpoint_of(packet->family, &packet->source);
	struct pilus_endpoint *to = pilus_endpoint_of(packet->family, &packet->destination);
	struct pilus_flow *flow = &drafted->flow, *pair = &drafted->pair;
	struct pilus_pod_range *range = NULL;
	bool outside = false, host = false, node = false;
	int result;

	if (!from)
		return -PILUS_DROP_UNROUTABLE;
	pilus_stamp(flow, pilus_slot_at(from, NULL), pilus_slot_at(to, &packet->destination));
	/* Once more, now that the generations are read: the first look was for the slots. */
	from = pilus_endpoint_of(packet->family, &packet->source);
	to = pilus_endpoint_of(packet->family, &packet->destination);
	if (!from)
		return -PILUS_DROP_UNROUTABLE;
	if (flow->slot[1] != pilus_slot_at(from, NULL) || flow->slot[2] != pilus_slot_at(to, &packet->destination))
		packet->uncached = 1;
	packet->source_identity = from->identity;
	if (to) {
		packet->destination_identity = to->identity;
	} else if (pilus_is_host(packet->family, &packet->destination, now)) {
		packet->destination_identity = PILUS_IDENTITY_HOST;
		packet->path = PILUS_PATH_HOST;
		host = true;
	} else {
		struct pilus_ipcache *known = pilus_ipcache_of(packet->family, &packet->destination);

		range = pilus_pod_range_of(packet->family, &packet->destination);
		packet->destination_identity = PILUS_IDENTITY_UNKNOWN;
		if (known) {
			packet->destination_identity = known->identity;
			node = known->flags & (PILUS_IPCACHE_NODE | PILUS_IPCACHE_ROUTER);
		} else if (!range) {
			packet->destination_identity = PILUS_IDENTITY_WORLD;
		}
		outside = known && known->flags ? pilus_node_counts(now, known) : !range;
		if (node && known->flags & PILUS_IPCACHE_LOCAL) {	/* another one of this host's own */
			packet->path = PILUS_PATH_HOST;
			host = true;
		}
	}
	result = pilus_may(packet, from, PILUS_DIRECTION_EGRESS, packet->destination_identity, &packet->destination, outside);
	if (result)
		return result;
	if (!(from->flags & PILUS_ENDPOINT_READY))
		return -PILUS_DROP_ENDPOINT_NOT_READY;
	/* What reaches a tunnel's port from this node's address is taken for this node's tunnel, and believed. Asked of the tuple
	 * that leaves, and for the outside as well: it may be a node that we have not heard of yet. */
	if (packet->protocol == PILUS_IPPROTO_UDP && now->tunnel_port && packet->destination_port == bpf_htons(now->tunnel_port) &&
	    !to && (host || node || !range))
		return -PILUS_DROP_TUNNEL_PORT;
	flow->zone = PILUS_ZONE_POD_OUT;
	flow->link = from->ifindex;
	flow->endpoint = from->number;
	pilus_into_pod(pair, from);
	if (to) {
		result = pilus_may(packet, to, PILUS_DIRECTION_INGRESS, packet->source_identity, &packet->source, false);
		if (result)
			return result;
		if (!(to->flags & PILUS_ENDPOINT_READY))
			return -PILUS_DROP_ENDPOINT_NOT_READY;
		pilus_into_pod(flow, to);
		pair->zone = PILUS_ZONE_POD_OUT;
		pair->link = to->ifindex;
		return 0;
	}
	if (host) {
		result = pilus_host_may(packet, now, PILUS_DIRECTION_INGRESS, packet->source_identity, &packet->source, false);
		if (result)
			return result;
		flow->path = PILUS_PATH_HOST;
		pair->zone = PILUS_ZONE_HOST_OUT;
		pair->link = from->ifindex;
		return 0;
	}
	if (range && range->flags & PILUS_IPCACHE_LOCAL)
		return -PILUS_DROP_NO_LOCAL_ENDPOINT;
	if (!(now->flags & PILUS_SETTING_TUNNEL) && (range || node)) {
		if (!now->uplink_ifindex)
			return -PILUS_DROP_UNROUTABLE;
		pilus_into_uplink(flow, now);
		pair->zone = PILUS_ZONE_UPLINK_IN;
		pair->link = now->uplink_ifindex;
		return 0;
	}
	if (!range)
		return pilus_into_outside(packet, now, flow, pair);
	if (range->tunnel_family != PILUS_FAMILY_IPV4)
		return -PILUS_DROP_UNROUTABLE;
	pilus_into_tunnel(flow, now, &range->tunnel, packet->source_identity);
	pair->zone = PILUS_ZONE_OVERLAY_IN;
	pair->outer = range->tunnel;
	pair->vni = pilus_wire_identity(packet->destination_identity);
	return 0;
}

/* Another node sends, a pod of it or its own stack: to a pod of ours, or to this host's own stack. */
pilus_always int pilus_decide_overlay(struct pilus_packet *packet, const struct pilus_settings *now, struct pilus_draft *drafted)
{
	struct pilus_endpoint *to = pilus_endpoint_of(packet->family, &packet->destination);
	struct pilus_flow *flow = &drafted->flow, *pair = &drafted->pair;
	struct pilus_pod_range *range;
	struct pilus_ipcache *known;
	bool outside = false;
	int result;

	pilus_stamp(flow, pilus_slot_at(to, &packet->destination), pilus_slot_of(&packet->source));
	to = pilus_endpoint_of(packet->family, &packet->destination);
	if (!to && !pilus_is_router(packet->family, &packet->destination, now))
		return -PILUS_DROP_NO_LOCAL_ENDPOINT;
	if (flow->slot[1] != pilus_slot_at(to, &packet->destination))
		packet->uncached = 1;
	range = pilus_pod_range_of(packet->family, &packet->source);
	if (!range || range->flags & PILUS_IPCACHE_LOCAL)
		return -PILUS_DROP_UNKNOWN_SENDER;
	if (packet->reply || now->flags & PILUS_SETTING_CIDR_NODES) {
		known = pilus_ipcache_of(packet->family, &packet->source);
		/* A reply asks: who began is known by what it said then, unless its row says something newer. */
		if (packet->reply && known && known->identity)
			packet->source_identity = known->identity;
		outside = known && pilus_node_counts(now, known);
	}
	flow->zone = PILUS_ZONE_OVERLAY_IN;
	flow->outer = range->tunnel;
	flow->vni = pilus_wire_identity(packet->source_identity);
	if (!to) {
		packet->destination_identity = PILUS_IDENTITY_HOST;
		result = pilus_host_may(packet, now, PILUS_DIRECTION_INGRESS, packet->source_identity, &packet->source, outside);
		if (result)
			return result;
		flow->path = PILUS_PATH_HOST;
		pair->zone = PILUS_ZONE_HOST_OUT;
		pair->link = now->tunnel_ifindex;
		pilus_into_tunnel(pair, now, &range->tunnel, PILUS_IDENTITY_REMOTE_NODE);
		return 0;
	}
	packet->destination_identity = to->identity;
	result = pilus_may(packet, to, PILUS_DIRECTION_INGRESS, packet->source_identity, &packet->source, outside);
	if (result)
		return result;
	if (!(to->flags & PILUS_ENDPOINT_READY))
		return -PILUS_DROP_ENDPOINT_NOT_READY;
	flow->endpoint = to->number;
	pilus_into_pod(flow, to);
	pair->zone = PILUS_ZONE_POD_OUT;
	pair->link = to->ifindex;
	pilus_into_tunnel(pair, now, &range->tunnel, to->identity);
	return 0;
}

/* By the uplink to this host's own stack, or from it: which of the two zones the connection began in. */
pilus_always void pilus_by_host(struct pilus_packet *packet, const struct pilus_settings *now, struct pilus_draft *drafted, u8 zone,
				u8 back)
{
	packet->path = PILUS_PATH_HOST;
	drafted->flow.zone = zone;
	drafted->flow.link = now->uplink_ifindex;
	drafted->flow.path = PILUS_PATH_HOST;
	drafted->pair.zone = back;
	drafted->pair.link = now->uplink_ifindex;
	drafted->pair.path = PILUS_PATH_HOST;
}

/* To this host's own stack, which has a policy, by the uplink. */
pilus_always int pilus_decide_enter(struct pilus_packet *packet, const struct pilus_settings *now, struct pilus_draft *drafted)
{
	bool outside;

	/* Pods are given these ports by what is not in the table: a stranger's entry would keep one from them. */
	if (!packet->reply && pilus_is_nat_port(packet->destination_port, now))
		packet->uncached = 1;
	pilus_stamp(&drafted->flow, pilus_slot_of(&packet->destination), pilus_slot_of(&packet->source));
	packet->source_identity = pilus_who(packet->family, &packet->source, now, &outside);
	packet->destination_identity = PILUS_IDENTITY_HOST;
	pilus_by_host(packet, now, drafted, PILUS_ZONE_UPLINK_IN, PILUS_ZONE_UPLINK_OUT);
	return pilus_host_may(packet, now, PILUS_DIRECTION_INGRESS, packet->source_identity, &packet->source, outside);
}

/* This host's own stack, which has a policy, sends by the uplink. */
pilus_always int pilus_decide_leave(struct pilus_packet *packet, const struct pilus_settings *now, struct pilus_draft *drafted)
{
	bool outside;

	pilus_stamp(&drafted->flow, pilus_slot_of(&packet->source), pilus_slot_of(&packet->destination));
	packet->source_identity = PILUS_IDENTITY_HOST;
	packet->destination_identity = pilus_who(packet->family, &packet->destination, now, &outside);
	pilus_by_host(packet, now, drafted, PILUS_ZONE_UPLINK_OUT, PILUS_ZONE_UPLINK_IN);
	return pilus_host_may(packet, now, PILUS_DIRECTION_EGRESS, packet->destination_identity, &packet->destination, outside);
}

/* Direct routing: another node's pod, or its own stack, sends to one of ours. Who it is, its address says. */
pilus_always int pilus_decide_uplink(struct pilus_packet *packet, const struct pilus_settings *now, struct pilus_draft *drafted)
{
	struct pilus_endpoint *to = pilus_endpoint_of(packet->family, &packet->destination);
	struct pilus_flow *flow = &drafted->flow, *pair = &drafted->pair;
	struct pilus_ipcache *known;
	int result;

	if (!to && now->flags & PILUS_SETTING_HOST_FIREWALL)	/* nobody's but the host's comes as far as this */
		return pilus_decide_enter(packet, now, drafted);
	if (now->flags & PILUS_SETTING_TUNNEL)
		return -PILUS_DROP_AROUND_TUNNEL;
	pilus_stamp(flow, pilus_slot_at(to, &packet->destination), pilus_slot_of(&packet->source));
	to = pilus_endpoint_of(packet->family, &packet->destination);
	if (!to)
		return -PILUS_DROP_NO_LOCAL_ENDPOINT;
	if (flow->slot[1] != pilus_slot_at(to, NULL))
		packet->uncached = 1;
	known = pilus_ipcache_of(packet->family, &packet->source);
	packet->source_identity = known ? known->identity : PILUS_IDENTITY_UNKNOWN;
	packet->destination_identity = to->identity;
	packet->endpoint = to->number;
	result = pilus_may(packet, to, PILUS_DIRECTION_INGRESS, packet->source_identity, &packet->source,
			   known && pilus_node_counts(now, known));
	if (result)
		return result;
	if (!(to->flags & PILUS_ENDPOINT_READY))
		return -PILUS_DROP_ENDPOINT_NOT_READY;
	flow->zone = PILUS_ZONE_UPLINK_IN;
	flow->link = now->uplink_ifindex;
	flow->endpoint = to->number;
	pilus_into_pod(flow, to);
	pair->zone = PILUS_ZONE_POD_OUT;
	pair->link = to->ifindex;
	pilus_into_uplink(pair, now);
	return 0;
}

/* This host's own stack sends: to a pod of ours, which that one's policy never refuses and which may answer whatever it says, or to
 * another node's, which decides for itself. */
pilus_always int pilus_decide_host(struct pilus_packet *packet, const struct pilus_settings *now, struct pilus_draft *drafted)
{
	struct pilus_endpoint *to = pilus_endpoint_of(packet->family, &packet->destination);
	struct pilus_flow *flow = &drafted->flow, *pair = &drafted->pair;
	struct pilus_ipcache *known = NULL;

	pilus_stamp(flow, pilus_slot_at(to, &packet->destination), pilus_slot_of(&packet->source));
	to = pilus_endpoint_of(packet->family, &packet->destination);
	if (flow->slot[1] != pilus_slot_at(to, &packet->destination))
		packet->uncached = 1;
	packet->source_identity = PILUS_IDENTITY_HOST;
	packet->destination_identity = PILUS_IDENTITY_UNKNOWN;
	flow->zone = PILUS_ZONE_HOST_OUT;
	pair->path = PILUS_PATH_HOST;
	if (to) {
		if (!(to->flags & PILUS_ENDPOINT_READY))
			return -PILUS_DROP_ENDPOINT_NOT_READY;
		packet->destination_identity = to->identity;
		flow->link = to->ifindex;
		flow->endpoint = to->number;
		pilus_into_pod(flow, to);
		pair->zone = PILUS_ZONE_POD_OUT;
		pair->link = to->ifindex;
		if (now->flags & PILUS_SETTING_HOST_PROBES)
			return 0;
	} else {
		struct pilus_pod_range *range = pilus_pod_range_of(packet->family, &packet->destination);

		known = pilus_ipcache_of(packet->family, &packet->destination);

		if (!range || range->flags & PILUS_IPCACHE_LOCAL)
			return -PILUS_DROP_NO_LOCAL_ENDPOINT;
		if (!(now->flags & PILUS_SETTING_TUNNEL) || range->tunnel_family != PILUS_FAMILY_IPV4)
			return -PILUS_DROP_UNROUTABLE;
		if (known)
			packet->destination_identity = known->identity;
		flow->link = now->tunnel_ifindex;
		pilus_into_tunnel(flow, now, &range->tunnel, PILUS_IDENTITY_REMOTE_NODE);
		flow->mtu = 0;		/* the link's own MTU has been held to by the stack */
		pair->zone = PILUS_ZONE_OVERLAY_IN;
		pair->outer = range->tunnel;
		pair->vni = pilus_wire_identity(packet->destination_identity);
	}
	return pilus_host_may(packet, now, PILUS_DIRECTION_EGRESS, packet->destination_identity, &packet->destination,
			      known && pilus_node_counts(now, known));
}
