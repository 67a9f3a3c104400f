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

/* One hop: RFC 1812 5.3.1 and RFC 8200 3. Both sides of the tunnel count as one. */
pilus_always int pilus_decrement_ttl(struct __sk_buff *skb, const struct pilus_packet *packet)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (packet->ttl <= 1)
		return -PILUS_DROP_TTL_EXCEEDED;
	if (packet->family == PILUS_FAMILY_IPV4) {
		struct iphdr *ip = data + PILUS_ETHERNET_LENGTH;
		u32 check;

		if ((void *)(ip + 1) > end)
			return -PILUS_DROP_WRITE_ERROR;
		ip->ttl--;
		check = ip->check;	/* RFC 1624: the header's checksum grows by what the word lost */
		check += bpf_htons(0x0100);
		ip->check = check + (check >= 0xffff);
	} else {
		struct ipv6hdr *ip = data + PILUS_ETHERNET_LENGTH;

		if ((void *)(ip + 1) > end)
			return -PILUS_DROP_WRITE_ERROR;
		ip->hop_limit--;
	}
	return 0;
}

/* Straight into a local pod, past the host's stack and the veth's queue: bpf_redirect_peer works at tc ingress alone. */
pilus_always int pilus_deliver(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_endpoint *to)
{
	struct ethhdr *ethernet;
	int result;

	if (!(to->flags & PILUS_ENDPOINT_READY))
		return -PILUS_DROP_ENDPOINT_NOT_READY;
	result = pilus_decrement_ttl(skb, packet);
	if (result)
		return result;
	ethernet = (void *)(long)skb->data;
	if ((void *)(ethernet + 1) > (void *)(long)skb->data_end)
		return -PILUS_DROP_WRITE_ERROR;
	pilus_copy_mac(ethernet->h_dest, to->mac);
	pilus_copy_mac(ethernet->h_source, to->gateway_mac);
	packet->path = PILUS_PATH_POD;
	/* The tunnel's link saw another destination than its own and marked the packet as somebody else's. */
	if (packet->hook == PILUS_HOOK_OVERLAY_FROM)
		bpf_skb_change_type(skb, PILUS_PACKET_HOST);
	return bpf_redirect_peer(to->ifindex, 0);
}

/* To the node behind which the address is; the sender's identity travels as the tunnel's number. */
pilus_always int pilus_encapsulate(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_settings *now,
				   const struct pilus_address *node)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = packet->source_identity,
		.tunnel_ttl = PILUS_TUNNEL_TTL,
	};
	int result = pilus_decrement_ttl(skb, packet);

	if (result)
		return result;
	key.remote_ipv4 = bpf_ntohl(node->word[0]);
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX))
		return -PILUS_DROP_NO_TUNNEL_KEY;
	packet->path = PILUS_PATH_TUNNEL;
	return bpf_redirect(now->tunnel_ifindex, 0);
}

/* Whether an address is one of this host's own that pods may reach. */
pilus_always bool pilus_is_host(u32 family, const struct pilus_address *address, const struct pilus_settings *now)
{
	if (family == PILUS_FAMILY_IPV4)
		return address->word[0] == now->router_ipv4.word[0] || address->word[0] == now->node_ipv4.word[0];
	return pilus_same_address(address, &now->router_ipv6) || pilus_same_address(address, &now->node_ipv6);
}
