/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments: the first one says the ports, and is remembered for a while; the others pass as what it was. All of them go the
 * slow way. Nobody reassembles: a fragment whose first one has not come yet is dropped, and its datagram sent again.
 */
#pragma once
#include "flow.h"

pilus_always int pilus_part(struct __sk_buff *skb, struct pilus_packet *packet)
{
	struct pilus_fragment_key key = { .link = skb->ifindex, .outer = packet->outer.word[0] };
	struct pilus_fragment first = {}, *known;

	if (packet->fragment == PILUS_FRAGMENT_NONE)
		return 0;
	/* Numbers are counted up by one, in network order: their last bits are the ones that differ. */
	key.place = packet->zone << 16 | packet->family << 8 |
		    ((packet->family == PILUS_FAMILY_IPV4 ? bpf_ntohs(packet->fragment_id) : bpf_ntohl(packet->fragment_id)) &
		     (PILUS_FRAGMENT_PLACES - 1));
	if (packet->fragment == PILUS_FRAGMENT_FIRST) {
		first.source = packet->source;
		first.destination = packet->destination;
		first.id = packet->fragment_id;
		first.last_seen = pilus_seconds();
		first.source_port = packet->source_port;
		first.destination_port = packet->destination_port;
		first.family = packet->family;
		first.protocol = packet->protocol;
		first.icmp_type = packet->icmp_type;
		first.icmp_code = packet->icmp_code;
		first.uncached = packet->uncached;
		fragments.update(&key, &first);
		return 0;
	}
	known = fragments.lookup(&key);
	if (!known || known->id != packet->fragment_id || known->protocol != packet->protocol ||
	    !pilus_same_address(&known->source, &packet->source) || !pilus_same_address(&known->destination, &packet->destination) ||
	    (s32)(pilus_seconds() - known->last_seen) > PILUS_FRAGMENT_TIMEOUT)
		return -PILUS_DROP_FRAGMENT_NOT_FOUND;
	packet->source_port = known->source_port;
	packet->destination_port = known->destination_port;
	packet->icmp_type = known->icmp_type;
	packet->icmp_code = known->icmp_code;
	packet->uncached = known->uncached;
	return 0;
}
