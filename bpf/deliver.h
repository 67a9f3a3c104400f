/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a packet goes once it may: into a local pod, through the tunnel, or to this host's own stack. By redirect only: the
 * host's stack forwards nothing for pods.
 */
#pragma once
#include "verdict.h"

#define PILUS_PACKET_HOST 0
#define PILUS_TUNNEL_TTL 64

pilus_always struct pilus_endpoint *pilus_endpoint_of(u32 family, const struct pilus_address *address)
{
	struct pilus_endpoint_key key = { .family = family, .address = *address };

	return endpoints.lookup(&key);
}

/* Who is behind a pod's link, whatever address it speaks from. */
pilus_always struct pilus_endpoint *pilus_endpoint_at(u32 ifindex)
{
	struct pilus_endpoint_key key = { .family = PILUS_FAMILY_LINK, .address.word[0] = ifindex };

	return endpoints.lookup(&key);
}

/* This host as an endpoint: whom the settings name as having a policy. */
pilus_always struct pilus_endpoint *pilus_host_endpoint(void)
{
	return pilus_endpoint_at(0);
}

pilus_always u32 pilus_bits(u32 family)
{
	return family == PILUS_FAMILY_IPV4 ? 32 : 128;
}

pilus_always struct pilus_ipcache *pilus_ipcache_of(u32 family, const struct pilus_address *address)
{
	struct pilus_prefix key = { .length = 32 + pilus_bits(family), .family = family, .address = *address };

	return ipcache.lookup(&key);
}

pilus_always struct pilus_pod_range *pilus_pod_range_of(u32 family, const struct pilus_address *address)
{
	struct pilus_prefix key = { .length = 32 + pilus_bits(family), .family = family, .address = *address };

	return pod_ranges.lookup(&key);
}

/* To which node a packet goes, and with which number: the sender's identity. */
pilus_always int pilus_tunnel_key(struct __sk_buff *skb, const struct pilus_address *node, u32 number)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = number,
		.tunnel_ttl = PILUS_TUNNEL_TTL,
	};

	key.remote_ipv4 = bpf_ntohl(node->word[0]);
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX);
}

/* Whether an address is this host's own out of its pod range: the one that other nodes reach it by through the tunnel. */
pilus_always bool pilus_is_router(u32 family, const struct pilus_address *address, const struct pilus_settings *now)
{
	if (family == PILUS_FAMILY_IPV4)
		return address->word[0] == now->router_ipv4.word[0];
	return pilus_same_address(address, &now->router_ipv6);
}

/* Whether an address is this host's own on the underlay: the one that it masquerades with. */
pilus_always bool pilus_is_node(u32 family, const struct pilus_address *address, const struct pilus_settings *now)
{
	if (family == PILUS_FAMILY_IPV4)
		return address->word[0] == now->node_ipv4.word[0];
	return pilus_same_address(address, &now->node_ipv6);
}

pilus_always bool pilus_is_nat_port(__be16 port, const struct pilus_settings *now)
{
	u32 number = bpf_ntohs(port);

	return number >= now->nat_first && number <= now->nat_last;
}

/* Whether an address is one of this host's own that pods may reach. */
pilus_always bool pilus_is_host(u32 family, const struct pilus_address *address, const struct pilus_settings *now)
{
	if (family == PILUS_FAMILY_IPV4)
		return address->word[0] == now->router_ipv4.word[0] || address->word[0] == now->node_ipv4.word[0];
	return pilus_same_address(address, &now->router_ipv6) || pilus_same_address(address, &now->node_ipv6);
}
