/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Attached to the tunnel link: ingress is what other nodes send, egress what this host's own stack would. */
#include "flow.h"

/* The entry reads the tunnel's key, which can't be had in a test run, and hands it to the shared body in scratch. */
PILUS_PROGRAM(sched_cls, overlay_from)
{
	struct pilus_packet *packet = pilus_begin(PILUS_HOOK_OVERLAY_FROM);
	struct bpf_tunnel_key key = {};

	if (!packet)
		return PILUS_ACT_SHOT;
	packet->zone = PILUS_ZONE_OVERLAY_IN;
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return pilus_drop(skb, packet, -PILUS_DROP_NO_TUNNEL_KEY);
	packet->vni = key.tunnel_id;
	packet->outer.word[0] = bpf_htonl(key.remote_ipv4);
	calls.call(skb, PILUS_CALL_OVERLAY_BODY);
	return pilus_drop(skb, packet, -PILUS_DROP_MISSED_TAIL_CALL);
}

/* Held to the limits of an entry program: every packet out of the tunnel passes here. */
PILUS_TAIL(PILUS_CALL_OVERLAY_BODY, overlay_body)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	if (!packet)
		return PILUS_ACT_SHOT;
	packet->zone = PILUS_ZONE_OVERLAY_IN;
	if (!now || !(now->flags & PILUS_SETTING_READY))
		return pilus_drop(skb, packet, -PILUS_DROP_NO_CONFIG);
	if (skb->vlan_present)
		return pilus_drop(skb, packet, -PILUS_DROP_VLAN);
	result = pilus_fast(skb, PILUS_ZONE_OVERLAY_IN, PILUS_HOOK_OVERLAY_FROM, now, packet);
	if (result >= 0)
		return result;
	return pilus_parse_slowly(skb, packet);
}

/* What our own programs redirect bears a tunnel key. What does not, this host's own stack has sent, from its router address and
 * for another node's pod; or it would forward it, and then it carries nobody's identity. */
PILUS_PROGRAM(sched_cls, overlay_to)
{
	struct bpf_tunnel_key key = {};

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0)) {
		pilus_count(skb, PILUS_HOOK_OVERLAY_TO, 0);
		return PILUS_ACT_OK;
	}
	return pilus_from_stack(skb, PILUS_HOOK_OVERLAY_TO);
}
