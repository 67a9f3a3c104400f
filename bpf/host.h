/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * This host as an endpoint that has a policy: what of the uplink's traffic is its own. Without a policy all of it passes.
 */
#pragma once
#include "flow.h"
#include "fragment.h"
#include "neighbour.h"

#define PILUS_ETHERTYPE_VLAN 0x8100
#define PILUS_ETHERTYPE_VLAN_SERVICE 0x88a8
#define PILUS_VLAN_ID 0xfff
#define PILUS_IPPROTO_IGMP 2

pilus_always int pilus_pass_on(struct __sk_buff *skb, u32 hook)
{
	pilus_count(skb, hook, 0);
	return PILUS_ACT_PIPE;
}

pilus_always int pilus_missed(struct __sk_buff *skb, u32 hook)
{
	pilus_count(skb, hook, PILUS_DROP_MISSED_TAIL_CALL);
	return PILUS_ACT_SHOT;
}

/* Of a link on top of this one. A tag that names none (priority alone) makes a packet nobody else's: the stack takes it as its own. */
pilus_always bool pilus_is_of_vlan(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & PILUS_VLAN_ID;
}

/* To the host's stack, or from it: its policy says, if it has one. `flags`: of the settings; 0: nobody is asked. */
pilus_always int pilus_own(struct __sk_buff *skb, u32 hook, u32 flags)
{
	if (!(flags & PILUS_SETTING_HOST_FIREWALL))
		return pilus_pass_on(skb, hook);
	calls.call(skb, hook == PILUS_HOOK_UPLINK_FROM ? PILUS_CALL_HOST_IN : PILUS_CALL_HOST_OUT);
	return pilus_missed(skb, hook);
}

/* What a link needs to work, and nobody is asked about: neighbours, routers, who listens to which group. */
pilus_always bool pilus_is_of_link(const struct pilus_packet *packet)
{
	if (packet->family == PILUS_FAMILY_IPV4)
		return packet->protocol == PILUS_IPPROTO_IGMP;
	return pilus_is_link_message(packet);
}

/* Whether this host's policy refuses anything in a direction: without that, what can't be judged passes as it did before. */
pilus_always bool pilus_host_enforces(u32 direction)
{
	struct pilus_endpoint *host = pilus_host_endpoint();

	return host && host->flags & direction;
}

/* What was parsed of a packet that a policy of this host is to be asked about: 0, or why nobody is asked. A protocol without ports is
 * judged by who sends it alone, and makes no entry. */
pilus_always int pilus_host_parsed(struct __sk_buff *skb, struct pilus_packet *packet, int parsed)
{
	if (parsed == -PILUS_DROP_UNKNOWN_L4) {
		packet->uncached = 1;
		parsed = 0;
	}
	return parsed ? parsed : pilus_part(skb, packet);
}
