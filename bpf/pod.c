/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Attached to the host's side of every pod's veth: ingress is what the pod sends, egress what this host's stack sends it. */
#include "neighbour.h"
#include "policy.h"

PILUS_PROGRAM(sched_cls, pod_from)
{
	struct pilus_packet *packet = pilus_begin(PILUS_HOOK_POD_FROM);
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);

	if (!packet)
		return PILUS_ACT_SHOT;
	if (!now || !(now->flags & PILUS_SETTING_READY))
		return pilus_exit(skb, packet, -PILUS_DROP_NO_CONFIG);
	if (skb->vlan_present)
		return pilus_exit(skb, packet, -PILUS_DROP_VLAN);
	switch (bpf_ntohs(skb->protocol)) {
	case PILUS_ETHERTYPE_IPV4:
		calls.call(skb, PILUS_CALL_POD_FROM_IPV4);
		break;
	case PILUS_ETHERTYPE_IPV6:
		calls.call(skb, PILUS_CALL_POD_FROM_IPV6);
		break;
	case PILUS_ETHERTYPE_ARP:
		calls.call(skb, PILUS_CALL_POD_FROM_ARP);
		break;
	default:
		return pilus_exit(skb, packet, -PILUS_DROP_UNSUPPORTED_L2);
	}
	return pilus_exit(skb, packet, -PILUS_DROP_MISSED_TAIL_CALL);
}

PILUS_TAIL(PILUS_CALL_POD_FROM_ARP, pod_from_arp)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	return pilus_exit(skb, packet, pilus_answer_arp(skb, packet, now));
}

/* Whose packet it is, and whether the address and MAC it bears are its own. 0 and *from, or a reason. */
pilus_always int pilus_sender(struct __sk_buff *skb, struct pilus_packet *packet, struct pilus_endpoint **from)
{
	struct pilus_endpoint *endpoint = pilus_endpoint_of(packet->family, &packet->source);
	struct ethhdr *ethernet = (void *)(long)skb->data;

	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return -PILUS_DROP_INVALID_SOURCE_IP;
	*from = endpoint;
	packet->endpoint = endpoint->number;
	packet->source_identity = endpoint->identity;
	if ((void *)(ethernet + 1) > (void *)(long)skb->data_end)
		return -PILUS_DROP_INVALID;
	if (!pilus_same_mac(ethernet->h_source, endpoint->mac))
		return -PILUS_DROP_INVALID_SOURCE_MAC;
	if (!pilus_same_mac(ethernet->h_dest, endpoint->gateway_mac))
		return -PILUS_DROP_INVALID_DESTINATION_MAC;
	if (!(endpoint->flags & PILUS_ENDPOINT_READY))
		return -PILUS_DROP_ENDPOINT_NOT_READY;
	return 0;
}

/* Who is asked for, and may it be: the sender's policy, then a local receiver's. Then the way there. */
pilus_always int pilus_send(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_settings *now,
			    const struct pilus_endpoint *from)
{
	struct pilus_endpoint *to = pilus_endpoint_of(packet->family, &packet->destination);
	struct pilus_pod_range *range = NULL;
	bool outside = false;
	int result;

	if (to) {
		packet->destination_identity = to->identity;
	} else if (pilus_is_host(packet->family, &packet->destination, now)) {
		packet->destination_identity = PILUS_IDENTITY_HOST;
		packet->path = PILUS_PATH_HOST;
	} else {
		struct pilus_ipcache *known = pilus_ipcache_of(packet->family, &packet->destination);

		range = pilus_pod_range_of(packet->family, &packet->destination);
		outside = !known && !range;
		if (known)
			packet->destination_identity = known->identity;
		else if (outside)
			packet->destination_identity = PILUS_IDENTITY_WORLD;
	}
	result = pilus_judge(packet, from, PILUS_DIRECTION_EGRESS, packet->destination_identity, &packet->destination, outside);
	if (result)
		return result;
	if (to) {
		result = pilus_judge(packet, to, PILUS_DIRECTION_INGRESS, packet->source_identity, &packet->source, false);
		return result ? result : pilus_deliver(skb, packet, to);
	}
	if (packet->path == PILUS_PATH_HOST)
		return PILUS_ACT_OK;
	if (!range)
		return outside ? -PILUS_DROP_OUTSIDE : -PILUS_DROP_UNROUTABLE;
	if (range->flags & PILUS_IPCACHE_LOCAL)
		return -PILUS_DROP_NO_LOCAL_ENDPOINT;
	if (!(now->flags & PILUS_SETTING_TUNNEL) || range->tunnel_family != PILUS_FAMILY_IPV4)
		return -PILUS_DROP_UNROUTABLE;
	return pilus_encapsulate(skb, packet, now, &range->tunnel);
}

PILUS_TAIL(PILUS_CALL_POD_FROM_IPV4, pod_from_ipv4)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_endpoint *from = NULL;
	int result;

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	result = pilus_parse_ipv4(skb, packet);
	if (!result)
		result = pilus_sender(skb, packet, &from);
	if (!result && from)
		result = pilus_send(skb, packet, now, from);
	return pilus_exit(skb, packet, result);
}

PILUS_TAIL(PILUS_CALL_POD_FROM_IPV6, pod_from_ipv6)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_endpoint *from = NULL;
	int result;

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	result = pilus_parse_ipv6(skb, packet);
	if (!result && pilus_is_link_message(packet)) {
		calls.call(skb, PILUS_CALL_POD_FROM_ND);
		result = -PILUS_DROP_MISSED_TAIL_CALL;
	}
	if (!result)
		result = pilus_sender(skb, packet, &from);
	if (!result && from)
		result = pilus_send(skb, packet, now, from);
	return pilus_exit(skb, packet, result);
}

PILUS_TAIL(PILUS_CALL_POD_FROM_ND, pod_from_nd)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	return pilus_exit(skb, packet, pilus_link_message(skb, packet, now));
}

/* What this host's own stack sends the pod: a probe of the kubelet, an answer of a local process. What the stack would
 * forward has come in by a link, and is refused: it would carry no identity. */
PILUS_PROGRAM(sched_cls, pod_to)
{
	struct pilus_packet *packet = pilus_begin(PILUS_HOOK_POD_TO);
	struct pilus_endpoint *to;
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	if (!packet)
		return PILUS_ACT_SHOT;
	if (!now || !(now->flags & PILUS_SETTING_READY))
		return pilus_exit(skb, packet, -PILUS_DROP_NO_CONFIG);
	if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV4))
		result = pilus_parse_ipv4(skb, packet);
	else if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV6))
		result = pilus_parse_ipv6(skb, packet);
	else
		result = -PILUS_DROP_UNSUPPORTED_L2;
	if (!result && pilus_is_link_message(packet))
		result = -PILUS_DROP_HOUSEKEEPING;
	if (!result && skb->ingress_ifindex)
		result = -PILUS_DROP_FORWARDED;
	if (!result) {
		packet->source_identity = PILUS_IDENTITY_HOST;
		to = pilus_endpoint_of(packet->family, &packet->destination);
		if (!to || to->ifindex != skb->ifindex) {
			result = -PILUS_DROP_NO_LOCAL_ENDPOINT;
		} else {
			packet->endpoint = to->number;
			packet->destination_identity = to->identity;
			packet->path = PILUS_PATH_POD;
			result = to->flags & PILUS_ENDPOINT_READY ? PILUS_ACT_OK : -PILUS_DROP_ENDPOINT_NOT_READY;
		}
	}
	return pilus_exit(skb, packet, result);
}
