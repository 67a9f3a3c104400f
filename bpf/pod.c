/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Attached to the host's side of every pod's veth: ingress is what the pod sends, egress what this host's stack sends it. */
#include "flow.h"
#include "neighbour.h"

PILUS_PROGRAM(sched_cls, pod_from)
{
	struct pilus_packet *packet;
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	int result;

	if (now && now->flags & PILUS_SETTING_READY && !skb->vlan_present) {
		result = pilus_fast(skb, PILUS_ZONE_POD_OUT, PILUS_HOOK_POD_FROM, now, NULL);
		if (result >= 0)
			return result;
	}
	packet = pilus_begin(PILUS_HOOK_POD_FROM);
	if (!packet)
		return PILUS_ACT_SHOT;
	packet->zone = PILUS_ZONE_POD_OUT;
	if (!now || !(now->flags & PILUS_SETTING_READY))
		return pilus_drop(skb, packet, -PILUS_DROP_NO_CONFIG);
	if (skb->vlan_present)
		return pilus_drop(skb, packet, -PILUS_DROP_VLAN);
	if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_ARP))
		calls.call(skb, PILUS_CALL_POD_ARP);
	return pilus_parse_slowly(skb, packet);
}

PILUS_TAIL(PILUS_CALL_POD_ARP, pod_arp)
{
	struct pilus_packet *packet = pilus_scratch();
	u32 zero = 0;
	struct pilus_settings *now = settings.lookup(&zero);

	if (!packet || !now)
		return PILUS_ACT_SHOT;
	return pilus_exit(skb, packet, pilus_answer_arp(skb, packet, now));
}

PILUS_TAIL(PILUS_CALL_POD_ND, pod_nd)
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
	return pilus_from_stack(skb, PILUS_HOOK_POD_TO);
}
