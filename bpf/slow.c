/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The slow path, which every hook enters: parse, arrive (may it come from here, and do we know its connection?), and on to
 * conclude.c: decide (by the hook that its connection began at), commit. Each stage is a tail call; what they tell each other is in
 * scratch and draft.
 */
#include "commit.h"
#include "host.h"
#include "nat.h"
#include "related.h"

/* What an entry program could not pass; its reason is in scratch. */
PILUS_TAIL(PILUS_CALL_DROP, drop)
{
	struct pilus_packet *packet = pilus_scratch();

	if (!packet)
		return PILUS_ACT_SHOT;
	return pilus_exit(skb, packet, -(int)(packet->reason & (PILUS_REASONS - 1)));
}

pilus_always int pilus_arrive(struct __sk_buff *skb, struct pilus_packet *packet)
{
	switch (packet->zone) {
	case PILUS_ZONE_POD_OUT:
		calls.call(skb, PILUS_CALL_ARRIVE_POD);
		break;
	case PILUS_ZONE_OVERLAY_IN:
		calls.call(skb, PILUS_CALL_ARRIVE_OVERLAY);
		break;
	case PILUS_ZONE_UPLINK_IN:
		calls.call(skb, PILUS_CALL_ARRIVE_UPLINK);
		break;
	default:
		calls.call(skb, PILUS_CALL_ARRIVE_HOST);
	}
	return -PILUS_DROP_MISSED_TAIL_CALL;
}

PILUS_TAIL(PILUS_CALL_PARSE_IPV4, parse_ipv4)
{
	struct pilus_packet *packet = pilus_scratch();
	int result;

	if (!packet)
		return PILUS_ACT_SHOT;
	result = pilus_parse_ipv4(skb, packet);
	if (!result)
		result = pilus_part(skb, packet);
	if (!result)
		result = pilus_arrive(skb, packet);
	return pilus_exit(skb, packet, result);
}

PILUS_TAIL(PILUS_CALL_PARSE_IPV6, parse_ipv6)
{
	struct pilus_packet *packet = pilus_scratch();
	int result;

	if (!packet)
		return PILUS_ACT_SHOT;
	result = pilus_parse_ipv6(skb, packet);
	if (!result && pilus_is_link_message(packet)) {
		if (packet->zone == PILUS_ZONE_POD_OUT) {
			calls.call(skb, PILUS_CALL_POD_ND);
			result = -PILUS_DROP_MISSED_TAIL_CALL;
		} else {	/* about a link: never crosses one */
			result = packet->zone == PILUS_ZONE_OVERLAY_IN ? -PILUS_DROP_FORBIDDEN_ICMP6 : -PILUS_DROP_HOUSEKEEPING;
		}
	}
	if (!result)
		result = pilus_part(skb, packet);
	if (!result)
		result = pilus_arrive(skb, packet);
	return pilus_exit(skb, packet, result);
}

/* Whether we know the connection. A reply is turned around, so that the forward direction is decided on. Ends in a tail call. */
pilus_always int pilus_recall(struct __sk_buff *skb, struct pilus_packet *packet)
{
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_draft *drafted = draft.lookup(&zero);
	struct pilus_flow *held = NULL;

	if (!now || !drafted)
		return -PILUS_DROP_NO_CONFIG;
	__builtin_memset(drafted, 0, sizeof(*drafted));
	drafted->key.zone = packet->zone;
	drafted->key.family = packet->family;
	drafted->key.protocol = packet->protocol;
	drafted->key.source_port = packet->source_port;
	drafted->key.destination_port = packet->destination_port;
	drafted->key.source = packet->source;
	drafted->key.destination = packet->destination;
	packet->forward_zone = packet->zone;
	if (packet->uncached)
		packet->related = pilus_is_related(skb, packet, now);
	else
		held = pilus_held(&drafted->key);
	if (held && pilus_expired(held, now, pilus_seconds()))
		held = NULL;
	/* With identifier 0 an echo's request and its answer's request have one key: who was asked may not ask. */
	if (held && (packet->protocol == PILUS_IPPROTO_ICMP || packet->protocol == PILUS_IPPROTO_ICMPV6) &&
	    pilus_is_echo_request(packet->protocol, packet->icmp_type) != (held->role == PILUS_FLOW_FORWARD))
		held = NULL;
	/* From the outside nobody begins a connection of a pod's: to its port is to the stack, or to the host's policy. */
	if (held && held->path == PILUS_PATH_BACK && (packet->tcp_flags & (PILUS_TCP_SYN | PILUS_TCP_ACK)) == PILUS_TCP_SYN &&
	    packet->zone == PILUS_ZONE_UPLINK_IN)
		held = NULL;
	if (held && !pilus_same_ends(skb, packet, held)) {	/* a former pod's: this is a new connection, which takes it over */
		if (held->path == PILUS_PATH_BACK) {	/* but from the outside nobody begins one */
			packet->source_identity = held->source_identity;
			return -PILUS_DROP_NO_LOCAL_ENDPOINT;
		}
		held = NULL;
	}
	if (held) {
		packet->held = 1;
		packet->denied = held->flags & PILUS_FLOW_DENIED;
		if (held->flags & PILUS_FLOW_AUDITED)
			packet->audit = PILUS_AUDIT_KNOWN;
		if (held->role == PILUS_FLOW_REPLY &&
		    !((packet->tcp_flags & (PILUS_TCP_SYN | PILUS_TCP_ACK)) == PILUS_TCP_SYN && held->state == PILUS_FLOW_CLOSING)) {
			packet->forward_zone = held->pair_zone;
			drafted->pair_key = drafted->key;
			pilus_pair_key(&drafted->key, &drafted->pair_key, held);
			pilus_turn_around(packet, &drafted->key);
			packet->source_identity = held->destination_identity;
			packet->destination_identity = held->source_identity;
			if (packet->protocol == PILUS_IPPROTO_ICMP)
				packet->icmp_type = PILUS_ICMP_REQUEST;
			else if (packet->protocol == PILUS_IPPROTO_ICMPV6)
				packet->icmp_type = PILUS_ICMPV6_REQUEST;
		}
	}
	/* An echo reply that nobody asked for makes no entry: it would let requests back in. */
	if (!packet->reply && (packet->protocol == PILUS_IPPROTO_ICMP || packet->protocol == PILUS_IPPROTO_ICMPV6) &&
	    !pilus_is_echo_request(packet->protocol, packet->icmp_type))
		packet->uncached = 1;
	switch (packet->forward_zone) {
	case PILUS_ZONE_POD_OUT:
		calls.call(skb, PILUS_CALL_DECIDE_POD);
		break;
	case PILUS_ZONE_OVERLAY_IN:
		calls.call(skb, PILUS_CALL_DECIDE_OVERLAY);
		break;
	case PILUS_ZONE_UPLINK_IN:
		calls.call(skb, PILUS_CALL_DECIDE_UPLINK);
		break;
	case PILUS_ZONE_UPLINK_OUT:
		calls.call(skb, PILUS_CALL_DECIDE_LEAVE);
		break;
	case PILUS_ZONE_HOST_OUT:
		calls.call(skb, PILUS_CALL_DECIDE_HOST);
		break;
	default:
		break;
	}
	return -PILUS_DROP_MISSED_TAIL_CALL;
}

/* Whether the address and MAC that a pod's packet bears are its own. */
pilus_always int pilus_sender(struct __sk_buff *skb, struct pilus_packet *packet)
{
	struct pilus_endpoint *endpoint = pilus_endpoint_of(packet->family, &packet->source);
	struct ethhdr *ethernet = (void *)(long)skb->data;

	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return -PILUS_DROP_INVALID_SOURCE_IP;
	packet->endpoint = endpoint->number;
	packet->source_identity = endpoint->identity;
	if ((void *)(ethernet + 1) > (void *)(long)skb->data_end)
		return -PILUS_DROP_INVALID;
	if (!pilus_same_mac(ethernet->h_source, endpoint->mac))
		return -PILUS_DROP_INVALID_SOURCE_MAC;
	if (!pilus_same_mac(ethernet->h_dest, endpoint->gateway_mac))
		return -PILUS_DROP_INVALID_DESTINATION_MAC;
	return endpoint->flags & PILUS_ENDPOINT_READY ? 0 : -PILUS_DROP_ENDPOINT_NOT_READY;
}

PILUS_TAIL(PILUS_CALL_ARRIVE_POD, arrive_pod)
{
	struct pilus_packet *packet = pilus_scratch();
	int result;

	if (!packet)
		return PILUS_ACT_SHOT;
	result = pilus_sender(skb, packet);
	if (!result)
		result = pilus_recall(skb, packet);
	return pilus_exit(skb, packet, result);
}

/* A tunnel packet counts only if the node that sent it has its sender, and the number it bears is an identity we know:
 * anybody on the underlay can write a VNI (CVE-2019-13119). It goes to a local pod or nowhere. */
pilus_always int pilus_from_node(struct pilus_packet *packet, const struct pilus_settings *now)
{
	struct pilus_pod_range *range = pilus_pod_range_of(packet->family, &packet->source);
	struct pilus_endpoint *to;

	if (!range)
		return -PILUS_DROP_UNKNOWN_SENDER;
	if (range->flags & PILUS_IPCACHE_LOCAL || range->tunnel_family != PILUS_FAMILY_IPV4 ||
	    !pilus_same_address(&range->tunnel, &packet->outer))
		return -PILUS_DROP_WRONG_NODE;
	packet->source_identity = packet->vni;
	/* Of the reserved numbers only that of a node's own stack comes through the tunnel, and from no address but its router's. */
	if (packet->vni < PILUS_IDENTITY_FIRST_FIXED) {
		struct pilus_ipcache *known = pilus_ipcache_of(packet->family, &packet->source);

		if (packet->vni != PILUS_IDENTITY_REMOTE_NODE || !known || !(known->flags & PILUS_IPCACHE_ROUTER) ||
		    !pilus_same_address(&known->tunnel, &packet->outer))
			return -PILUS_DROP_INVALID_VNI;
		packet->source_identity = known->identity;	/* what we call that node; its router is nobody else's */
	}
	if (!identities.lookup(&packet->source_identity))
		return -PILUS_DROP_UNKNOWN_IDENTITY;
	to = pilus_endpoint_of(packet->family, &packet->destination);
	if (to) {
		packet->endpoint = to->number;
		packet->destination_identity = to->identity;
		return 0;
	}
	return pilus_is_router(packet->family, &packet->destination, now) ? 0 : -PILUS_DROP_NO_LOCAL_ENDPOINT;
}

PILUS_TAIL(PILUS_CALL_ARRIVE_OVERLAY, arrive_overlay)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	result = pilus_from_node(packet, now);
	if (!result)
		result = pilus_recall(skb, packet);
	return pilus_exit(skb, packet, result);
}

/* Whether a packet for this host itself may be from where it says. Nobody else has one of its addresses, nor, where pods are behind
 * the tunnel, a pod's. */
pilus_always int pilus_for_host(const struct pilus_packet *packet, const struct pilus_settings *now, const struct pilus_pod_range *range,
				const struct pilus_ipcache *known)
{
	if (pilus_pod_range_of(packet->family, &packet->destination) && !pilus_is_router(packet->family, &packet->destination, now))
		return -PILUS_DROP_NO_LOCAL_ENDPOINT;
	if (known && known->flags & PILUS_IPCACHE_LOCAL)
		return -PILUS_DROP_WRONG_NODE;
	if (range && (now->flags & PILUS_SETTING_TUNNEL || range->flags & PILUS_IPCACHE_LOCAL))
		return -PILUS_DROP_AROUND_TUNNEL;
	return 0;
}

/* By the uplink comes what answers to a masqueraded flow (uplink.c has looked), without a tunnel what another node sends, and what a
 * policy of this host is asked about. */
pilus_always int pilus_by_uplink(struct pilus_packet *packet, const struct pilus_settings *now)
{
	struct pilus_endpoint *to = pilus_endpoint_of(packet->family, &packet->destination);
	struct pilus_pod_range *range;
	struct pilus_ipcache *known;

	if (!to && !(now->flags & PILUS_SETTING_HOST_FIREWALL))
		return pilus_is_node(packet->family, &packet->destination, now) ? 0 : -PILUS_DROP_NO_LOCAL_ENDPOINT;
	packet->destination_identity = to ? to->identity : PILUS_IDENTITY_HOST;
	range = pilus_pod_range_of(packet->family, &packet->source);
	known = pilus_ipcache_of(packet->family, &packet->source);
	if (known)
		packet->source_identity = known->identity;
	if (!to)
		return pilus_for_host(packet, now, range, known);
	packet->endpoint = to->number;
	if ((range && range->flags & PILUS_IPCACHE_LOCAL) || (known && known->flags & PILUS_IPCACHE_LOCAL))
		return -PILUS_DROP_WRONG_NODE;	/* ours do not come from elsewhere */
	return range || (known && known->flags & PILUS_IPCACHE_NODE) ? 0 : -PILUS_DROP_UNKNOWN_SENDER;
}

PILUS_TAIL(PILUS_CALL_ARRIVE_UPLINK, arrive_uplink)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	result = pilus_by_uplink(packet, now);
	/* Of what is for the host itself nobody asks who lies, where its policy refuses nothing. */
	if (result && packet->destination_identity == PILUS_IDENTITY_HOST && result != -PILUS_DROP_NO_LOCAL_ENDPOINT &&
	    !pilus_host_enforces(PILUS_ENDPOINT_INGRESS_ENFORCED))
		return pilus_exit(skb, packet, PILUS_ACT_PIPE);
	if (!result)
		result = pilus_recall(skb, packet);
	return pilus_exit(skb, packet, result);
}

/* This host's own stack sends by the uplink, and has a policy (host.c has looked). */
PILUS_TAIL(PILUS_CALL_ARRIVE_LEAVE, arrive_leave)
{
	struct pilus_packet *packet = pilus_scratch();

	if (!packet)
		return PILUS_ACT_SHOT;
	packet->source_identity = PILUS_IDENTITY_HOST;
	return pilus_exit(skb, packet, pilus_recall(skb, packet));
}

PILUS_TAIL(PILUS_CALL_ARRIVE_HOST, arrive_host)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_endpoint *to;
	int result;

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	if (skb->ingress_ifindex)
		return pilus_exit(skb, packet, -PILUS_DROP_FORWARDED);
	packet->source_identity = PILUS_IDENTITY_HOST;
	if (packet->hook == PILUS_HOOK_OVERLAY_TO) {	/* the other node believes no other address */
		result = -PILUS_DROP_INVALID_SOURCE_IP;
		if (pilus_is_router(packet->family, &packet->source, now))
			result = pilus_recall(skb, packet);
		return pilus_exit(skb, packet, result);
	}
	to = pilus_endpoint_of(packet->family, &packet->destination);
	if (!to || to->ifindex != skb->ifindex)
		return pilus_exit(skb, packet, -PILUS_DROP_NO_LOCAL_ENDPOINT);
	packet->endpoint = to->number;
	packet->destination_identity = to->identity;
	result = pilus_recall(skb, packet);
	return pilus_exit(skb, packet, result);
}
