/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a pod asks its link for: the gateway's MAC, by ARP or neighbour discovery. Answered here, for the gateway alone and to
 * the pod alone, so that no pod hears another's question or can answer it (CVE-2020-10749).
 */
#pragma once
#include "deliver.h"

#define PILUS_ARP_REQUEST 1
#define PILUS_ND_ROUTER_SOLICITATION 133
#define PILUS_ND_NEIGHBOUR_SOLICITATION 135
#define PILUS_ND_NEIGHBOUR_ADVERTISEMENT 136
#define PILUS_MLD_FIRST 130
#define PILUS_MLD_LAST 132
#define PILUS_MLD2_REPORT 143
#define PILUS_ND_HOP_LIMIT 255	/* RFC 4861 7.1: a packet with less has crossed a router and is forged */
#define PILUS_ND_SOLICITED_OVERRIDE_ROUTER 0xe0
#define PILUS_ND_TARGET_LINK_ADDRESS 2

struct pilus_arp {			/* 28 bytes; RFC 826 for Ethernet and IPv4 */
	__be16 hardware, protocol;
	u8 hardware_length, protocol_length;
	__be16 operation;
	u8 sender_mac[6];
	u8 sender[4];
	u8 target_mac[6];
	u8 target[4];
};

struct pilus_advertisement {		/* 32 bytes; RFC 4861 4.4 with the target's link address */
	u8 type, code;
	__be16 checksum;
	u8 flags, zero[3];
	struct pilus_address target;
	u8 option, option_length;
	u8 mac[6];
};

/* Turn the frame around: from the gateway, to who asked. */
pilus_always void pilus_turn(struct ethhdr *ethernet, const struct pilus_endpoint *endpoint)
{
	pilus_copy_mac(ethernet->h_dest, endpoint->mac);
	pilus_copy_mac(ethernet->h_source, endpoint->gateway_mac);
}

pilus_always int pilus_answer_arp(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_settings *now)
{
	struct pilus_address sender = {}, target = {};
	struct pilus_endpoint *endpoint;
	struct ethhdr *ethernet;
	struct pilus_arp *arp;

	if (!pilus_pull(skb, PILUS_ETHERNET_LENGTH + sizeof(*arp)))
		return -PILUS_DROP_INVALID_ARP;
	ethernet = (void *)(long)skb->data;
	arp = (void *)(ethernet + 1);
	if ((void *)(arp + 1) > (void *)(long)skb->data_end)
		return -PILUS_DROP_INVALID_ARP;
	__builtin_memcpy(&sender.word[0], arp->sender, 4);
	__builtin_memcpy(&target.word[0], arp->target, 4);
	packet->family = PILUS_FAMILY_IPV4;
	packet->source = sender;
	packet->destination = target;
	endpoint = pilus_endpoint_of(PILUS_FAMILY_IPV4, &sender);
	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return -PILUS_DROP_INVALID_SOURCE_IP;
	packet->endpoint = endpoint->number;
	packet->source_identity = endpoint->identity;
	if (!pilus_same_mac(arp->sender_mac, endpoint->mac) || !pilus_same_mac(ethernet->h_source, endpoint->mac))
		return -PILUS_DROP_INVALID_SOURCE_MAC;
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(PILUS_ETHERTYPE_IPV4) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4 || arp->operation != bpf_htons(PILUS_ARP_REQUEST))
		return -PILUS_DROP_INVALID_ARP;
	if (target.word[0] != now->router_ipv4.word[0])
		return -PILUS_DROP_INVALID_ARP;
	arp->operation = bpf_htons(2);
	__builtin_memcpy(arp->target, arp->sender, 4);
	pilus_copy_mac(arp->target_mac, arp->sender_mac);
	__builtin_memcpy(arp->sender, &target.word[0], 4);
	pilus_copy_mac(arp->sender_mac, endpoint->gateway_mac);
	pilus_turn(ethernet, endpoint);
	packet->path = PILUS_PATH_ANSWER;
	bpf_skb_change_type(skb, PILUS_PACKET_HOST);
	return bpf_redirect_peer(skb->ifindex, 0);
}

/* Whether an ICMPv6 message is about the link, not for another host: it never leaves the pod's veth. */
pilus_always bool pilus_is_link_message(const struct pilus_packet *packet)
{
	u8 type = packet->icmp_type;

	return packet->protocol == PILUS_IPPROTO_ICMPV6 &&
	       ((type >= PILUS_MLD_FIRST && type <= 137) || type == PILUS_MLD2_REPORT);
}

/* fe80::/10: of one link alone, and nobody's name beyond it. */
pilus_always bool pilus_is_link_local(const struct pilus_address *address)
{
	return (address->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* The solicited-node group and our answer's checksum need the whole message in place: RFC 4443 2.3, over 32 bytes. */
pilus_always int pilus_answer_solicitation(struct __sk_buff *skb, struct pilus_packet *packet,
					   const struct pilus_settings *now)
{
	u32 length = PILUS_ETHERNET_LENGTH + sizeof(struct ipv6hdr) + sizeof(struct pilus_advertisement);
	struct {
		struct pilus_address source, destination;
		__be32 length, next;
	} pseudo = {};
	struct pilus_advertisement *message;
	struct pilus_endpoint *endpoint;
	struct ethhdr *ethernet;
	struct ipv6hdr *ip;
	u64 sum;

	if (!pilus_pull(skb, length))
		return -PILUS_DROP_FORBIDDEN_ICMP6;
	ethernet = (void *)(long)skb->data;
	ip = (void *)(ethernet + 1);
	message = (void *)(ip + 1);
	if ((void *)(message + 1) > (void *)(long)skb->data_end)
		return -PILUS_DROP_FORBIDDEN_ICMP6;
	if (ip->payload_len != bpf_htons(sizeof(*message)))	/* the source's link address is its one option */
		return -PILUS_DROP_FORBIDDEN_ICMP6;
	if (!pilus_same_address(&message->target, &now->router_ipv6))
		return -PILUS_DROP_FORBIDDEN_ICMP6;
	/* A kernel asks from its link-local address where no packet waits: whether an aged entry still holds. */
	if (pilus_is_link_local(&packet->source))
		endpoint = pilus_endpoint_at(skb->ifindex);
	else
		endpoint = pilus_endpoint_of(PILUS_FAMILY_IPV6, &packet->source);
	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return -PILUS_DROP_INVALID_SOURCE_IP;
	packet->endpoint = endpoint->number;
	packet->source_identity = endpoint->identity;
	if (!pilus_same_mac(ethernet->h_source, endpoint->mac))
		return -PILUS_DROP_INVALID_SOURCE_MAC;
	message->type = PILUS_ND_NEIGHBOUR_ADVERTISEMENT;
	message->code = 0;
	message->checksum = 0;
	message->flags = PILUS_ND_SOLICITED_OVERRIDE_ROUTER;
	message->option = PILUS_ND_TARGET_LINK_ADDRESS;
	message->option_length = 1;
	pilus_copy_mac(message->mac, endpoint->gateway_mac);
	pilus_turn(ethernet, endpoint);
	__builtin_memcpy(&ip->daddr, &packet->source, sizeof(ip->daddr));
	__builtin_memcpy(&ip->saddr, &now->router_ipv6, sizeof(ip->saddr));
	pseudo.source = now->router_ipv6;
	pseudo.destination = packet->source;
	pseudo.length = bpf_htonl(sizeof(*message));
	pseudo.next = bpf_htonl(PILUS_IPPROTO_ICMPV6);
	sum = bpf_csum_diff(0, 0, (void *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(0, 0, (void *)message, sizeof(*message), sum);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	message->checksum = ~sum;
	packet->path = PILUS_PATH_ANSWER;
	bpf_skb_change_type(skb, PILUS_PACKET_HOST);
	return bpf_redirect_peer(skb->ifindex, 0);
}

pilus_always int pilus_link_message(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_settings *now)
{
	bool unspecified = !(packet->source.word[0] | packet->source.word[1] | packet->source.word[2] | packet->source.word[3]);

	if (packet->icmp_type == PILUS_ND_ROUTER_SOLICITATION || packet->icmp_type == PILUS_MLD2_REPORT ||
	    (packet->icmp_type >= PILUS_MLD_FIRST && packet->icmp_type <= PILUS_MLD_LAST))
		return -PILUS_DROP_HOUSEKEEPING;
	if (packet->ttl != PILUS_ND_HOP_LIMIT || packet->icmp_code)
		return -PILUS_DROP_FORBIDDEN_ICMP6;
	if (packet->icmp_type == PILUS_ND_NEIGHBOUR_SOLICITATION) {
		/* Duplicate address detection asks from no address. Silence is its answer: the address is free. */
		if (unspecified)
			return -PILUS_DROP_HOUSEKEEPING;
		return pilus_answer_solicitation(skb, packet, now);
	}
	if (packet->icmp_type == PILUS_ND_NEIGHBOUR_ADVERTISEMENT) {
		struct pilus_address target = {};
		struct pilus_endpoint *endpoint;

		/* A pod that announces its own address tells nobody anything; in another's name it is an attack. */
		if (bpf_skb_load_bytes(skb, packet->l4_offset + 8, &target, sizeof(target)))
			return -PILUS_DROP_FORBIDDEN_ICMP6;
		endpoint = pilus_endpoint_of(PILUS_FAMILY_IPV6, &target);
		if (pilus_is_link_local(&target) || (endpoint && endpoint->ifindex == skb->ifindex))
			return -PILUS_DROP_HOUSEKEEPING;
	}
	return -PILUS_DROP_FORBIDDEN_ICMP6;	/* router advertisements, redirects */
}
