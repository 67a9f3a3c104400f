/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Attached to the tunnel link: ingress is what other nodes send, egress what this host's own stack would. */
#include "deliver.h"
#include "policy.h"

/* The entry reads the tunnel's key, which can't be had in a test run, and hands it to the shared body in scratch. */
PILUS_PROGRAM(sched_cls, overlay_from)
{
	struct pilus_packet *packet = pilus_begin(PILUS_HOOK_OVERLAY_FROM);
	struct bpf_tunnel_key key = {};
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);

	if (!packet)
		return PILUS_ACT_SHOT;
	if (!now || !(now->flags & PILUS_SETTING_READY))
		return pilus_exit(skb, packet, -PILUS_DROP_NO_CONFIG);
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return pilus_exit(skb, packet, -PILUS_DROP_NO_TUNNEL_KEY);
	packet->vni = key.tunnel_id;
	packet->outer.word[0] = bpf_htonl(key.remote_ipv4);
	if (skb->vlan_present)
		return pilus_exit(skb, packet, -PILUS_DROP_VLAN);
	if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV4))
		calls.call(skb, PILUS_CALL_OVERLAY_IPV4);
	else if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV6))
		calls.call(skb, PILUS_CALL_OVERLAY_IPV6);
	else
		return pilus_exit(skb, packet, -PILUS_DROP_UNSUPPORTED_L2);
	return pilus_exit(skb, packet, -PILUS_DROP_MISSED_TAIL_CALL);
}

/* A tunnel packet counts only if the node that sent it has its sender, and the number it bears is an identity we know:
 * anybody on the underlay can write a VNI (CVE-2019-13119). It goes to a local pod or nowhere. */
pilus_always int pilus_overlay(struct __sk_buff *skb, struct pilus_packet *packet)
{
	struct pilus_pod_range *range = pilus_pod_range_of(packet->family, &packet->source);
	struct pilus_endpoint *to;
	int result;

	if (!range)
		return -PILUS_DROP_UNKNOWN_SENDER;
	if (range->flags & PILUS_IPCACHE_LOCAL || range->tunnel_family != PILUS_FAMILY_IPV4 ||
	    !pilus_same_address(&range->tunnel, &packet->outer))
		return -PILUS_DROP_WRONG_NODE;
	packet->source_identity = packet->vni;
	/* Reserved numbers mean a node or the outside, and neither has an address in a pod range. Nothing sends them yet. */
	if (packet->vni < 256)
		return -PILUS_DROP_INVALID_VNI;
	if (!identities.lookup(&packet->source_identity))
		return -PILUS_DROP_UNKNOWN_IDENTITY;
	to = pilus_endpoint_of(packet->family, &packet->destination);
	if (!to)
		return -PILUS_DROP_NO_LOCAL_ENDPOINT;
	packet->endpoint = to->number;
	packet->destination_identity = to->identity;
	result = pilus_judge(packet, to, PILUS_DIRECTION_INGRESS, packet->source_identity, &packet->source, false);
	return result ? result : pilus_deliver(skb, packet, to);
}

PILUS_TAIL(PILUS_CALL_OVERLAY_IPV4, overlay_ipv4)
{
	struct pilus_packet *packet = pilus_scratch();
	int result;

	if (!packet)
		return PILUS_ACT_SHOT;
	result = pilus_parse_ipv4(skb, packet);
	if (!result)
		result = pilus_overlay(skb, packet);
	return pilus_exit(skb, packet, result);
}

PILUS_TAIL(PILUS_CALL_OVERLAY_IPV6, overlay_ipv6)
{
	struct pilus_packet *packet = pilus_scratch();
	int result;

	if (!packet)
		return PILUS_ACT_SHOT;
	result = pilus_parse_ipv6(skb, packet);
	if (!result && packet->protocol == PILUS_IPPROTO_ICMPV6 && packet->icmp_type >= 130 && packet->icmp_type <= 137)
		result = -PILUS_DROP_FORBIDDEN_ICMP6;	/* about a link: never crosses one */
	if (!result)
		result = pilus_overlay(skb, packet);
	return pilus_exit(skb, packet, result);
}

/* The host's stack has no route to the tunnel: what it sends there, it was told to by somebody else. What our own programs
 * redirect bears a tunnel key. */
PILUS_PROGRAM(sched_cls, overlay_to)
{
	struct pilus_packet *packet = pilus_begin(PILUS_HOOK_OVERLAY_TO);
	struct bpf_tunnel_key key = {};

	if (!packet)
		return PILUS_ACT_SHOT;
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return pilus_exit(skb, packet, -PILUS_DROP_NO_TUNNEL_KEY);
	return pilus_exit(skb, packet, PILUS_ACT_OK);
}
