/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From bytes to a struct pilus_packet. Each parser checks its own bounds, and returns 0 or a reason as a negative number.
 * Everything in a packet is hostile until it has been through here.
 */
#pragma once
#include "maps.h"

/* <linux/if_ether.h> and friends are macros, which the kernel's BTF does not have. */
#define PILUS_ETHERTYPE_IPV4 0x0800
#define PILUS_ETHERTYPE_ARP 0x0806
#define PILUS_ETHERTYPE_IPV6 0x86dd
#define PILUS_ETHERNET_LENGTH 14
#define PILUS_ADDRESS_LENGTH 6

#define PILUS_IPPROTO_ICMP 1
#define PILUS_IPPROTO_TCP 6
#define PILUS_IPPROTO_UDP 17
#define PILUS_IPPROTO_ICMPV6 58
#define PILUS_IPPROTO_SCTP 132

#define PILUS_IPV6_HOP_BY_HOP 0
#define PILUS_IPV6_ROUTING 43
#define PILUS_IPV6_FRAGMENT 44
#define PILUS_IPV6_AUTHENTICATION 51
#define PILUS_IPV6_DESTINATION 60
#define PILUS_IPV6_EXTENSIONS 4		/* how many are read before the packet is refused */

#ifndef NULL
#define NULL ((void *)0)
#endif
#define pilus_always static inline __attribute__((always_inline))

pilus_always bool pilus_same_address(const struct pilus_address *left, const struct pilus_address *right)
{
	return left->word[0] == right->word[0] && left->word[1] == right->word[1] &&
	       left->word[2] == right->word[2] && left->word[3] == right->word[3];
}

pilus_always bool pilus_same_mac(const u8 *left, const u8 *right)
{
	return left[0] == right[0] && left[1] == right[1] && left[2] == right[2] &&
	       left[3] == right[3] && left[4] == right[4] && left[5] == right[5];
}

pilus_always void pilus_copy_mac(u8 *to, const u8 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
	to[4] = from[4];
	to[5] = from[5];
}

/* Make the first bytes of the frame readable in place: a sender may leave headers in fragments of the buffer. */
pilus_always bool pilus_pull(struct __sk_buff *skb, u32 length)
{
	if ((void *)(long)skb->data + length <= (void *)(long)skb->data_end)
		return true;
	if (bpf_skb_pull_data(skb, length))
		return false;
	return (void *)(long)skb->data + length <= (void *)(long)skb->data_end;
}

#define PILUS_ICMP_REPLY 0
#define PILUS_ICMP_REQUEST 8
#define PILUS_ICMPV6_REQUEST 128
#define PILUS_ICMPV6_REPLY 129

pilus_always bool pilus_is_echo_request(u8 protocol, u8 type)
{
	return type == (protocol == PILUS_IPPROTO_ICMP ? PILUS_ICMP_REQUEST : PILUS_ICMPV6_REQUEST);
}

pilus_always bool pilus_is_echo(u8 protocol, u8 type)
{
	return pilus_is_echo_request(protocol, type) ||
	       type == (protocol == PILUS_IPPROTO_ICMP ? PILUS_ICMP_REPLY : PILUS_ICMPV6_REPLY);
}

/* Ports, flags, types: what the layer-4 header at packet->l4_offset says. */
pilus_always int pilus_parse_l4(struct __sk_buff *skb, struct pilus_packet *packet)
{
	u32 offset = packet->l4_offset;

	switch (packet->protocol) {
	case PILUS_IPPROTO_TCP: {
		struct tcphdr tcp;

		if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
			return -PILUS_DROP_INVALID_HEADER;
		packet->source_port = tcp.source;
		packet->destination_port = tcp.dest;
		packet->tcp_flags = ((u8 *)&tcp)[13];
		packet->headers = offset - PILUS_ETHERNET_LENGTH + (((u8 *)&tcp)[12] >> 4) * 4;
		return 0;
	}
	case PILUS_IPPROTO_UDP:
	case PILUS_IPPROTO_SCTP: {
		__be16 ports[4];	/* UDP's whole header; of SCTP's twelve bytes these suffice */

		if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
			return -PILUS_DROP_INVALID_HEADER;
		packet->source_port = ports[0];
		packet->destination_port = ports[1];
		packet->headers = offset - PILUS_ETHERNET_LENGTH + sizeof(ports);
		return 0;
	}
	case PILUS_IPPROTO_ICMP:
	case PILUS_IPPROTO_ICMPV6: {
		struct {
			u8 type, code;
			__be16 checksum, identifier, sequence;
		} icmp;

		if (bpf_skb_load_bytes(skb, offset, &icmp, sizeof(icmp)))
			return -PILUS_DROP_INVALID_HEADER;
		packet->icmp_type = icmp.type;
		packet->icmp_code = icmp.code;
		packet->headers = offset - PILUS_ETHERNET_LENGTH + sizeof(icmp);
		packet->uncached = 1;
		if (pilus_is_echo(packet->protocol, icmp.type)) {
			packet->uncached = 0;
			if (pilus_is_echo_request(packet->protocol, icmp.type))
				packet->source_port = icmp.identifier;
			else
				packet->destination_port = icmp.identifier;
		}
		return 0;
	}
	default:
		return -PILUS_DROP_UNKNOWN_L4;
	}
}

/* A whole packet, or a first fragment, which must have its whole header. What a later one is, fragment.h finds out. */
pilus_always int pilus_parse_part(struct __sk_buff *skb, struct pilus_packet *packet)
{
	u32 wanted = packet->protocol == PILUS_IPPROTO_TCP ? sizeof(struct tcphdr) : 8;

	if (packet->fragment == PILUS_FRAGMENT_LATER)
		return 0;
	/* The frame may be longer than its packet: what lies behind it is no header. */
	if (packet->l4_offset - PILUS_ETHERNET_LENGTH + wanted > packet->size)
		return packet->fragment ? -PILUS_DROP_FRAGMENT : -PILUS_DROP_INVALID_HEADER;
	return pilus_parse_l4(skb, packet);
}

pilus_always int pilus_parse_ipv4(struct __sk_buff *skb, struct pilus_packet *packet)
{
	void *data, *end;
	struct iphdr *ip;

	if (!pilus_pull(skb, PILUS_ETHERNET_LENGTH + sizeof(*ip)))
		return -PILUS_DROP_INVALID;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	ip = data + PILUS_ETHERNET_LENGTH;
	if ((void *)(ip + 1) > end)
		return -PILUS_DROP_INVALID;
	if (ip->version != 4 || ip->ihl < 5 || bpf_ntohs(ip->tot_len) < ip->ihl * 4 ||
	    bpf_ntohs(ip->tot_len) + PILUS_ETHERNET_LENGTH > skb->len)
		return -PILUS_DROP_INVALID;
	packet->family = PILUS_FAMILY_IPV4;
	packet->source.word[0] = ip->saddr;
	packet->destination.word[0] = ip->daddr;
	packet->protocol = ip->protocol;
	packet->ttl = ip->ttl;
	packet->size = bpf_ntohs(ip->tot_len);
	if (ip->ihl != 5)
		return -PILUS_DROP_IP_OPTIONS;
	if (ip->frag_off & bpf_htons(0x3fff)) {	/* more fragments, or an offset */
		packet->fragment = ip->frag_off & bpf_htons(0x1fff) ? PILUS_FRAGMENT_LATER : PILUS_FRAGMENT_FIRST;
		packet->fragment_id = ip->id;
	}
	packet->l4_offset = PILUS_ETHERNET_LENGTH + sizeof(*ip);
	return pilus_parse_part(skb, packet);
}

pilus_always int pilus_parse_ipv6(struct __sk_buff *skb, struct pilus_packet *packet)
{
	u32 offset = PILUS_ETHERNET_LENGTH + sizeof(struct ipv6hdr);
	void *data, *end;
	struct ipv6hdr *ip;
	u8 next;

	if (!pilus_pull(skb, offset))
		return -PILUS_DROP_INVALID;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	ip = data + PILUS_ETHERNET_LENGTH;
	if ((void *)(ip + 1) > end)
		return -PILUS_DROP_INVALID;
	if (ip->version != 6 || bpf_ntohs(ip->payload_len) + offset > skb->len)
		return -PILUS_DROP_INVALID;
	packet->family = PILUS_FAMILY_IPV6;
	__builtin_memcpy(&packet->source, &ip->saddr, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &ip->daddr, sizeof(packet->destination));
	packet->ttl = ip->hop_limit;
	packet->size = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	next = ip->nexthdr;
#pragma unroll
	for (int i = 0; i < PILUS_IPV6_EXTENSIONS; i++) {
		u8 extension[2];

		if (next == PILUS_IPV6_FRAGMENT) {
			struct {
				u8 next, reserved;
				__be16 offset;
				__be32 id;
			} fragment;

			if (packet->fragment || bpf_skb_load_bytes(skb, offset, &fragment, sizeof(fragment)))
				return -PILUS_DROP_INVALID_EXTENSION;
			next = fragment.next;
			offset += sizeof(fragment);
			if (fragment.offset & bpf_htons(0xfff8))
				packet->fragment = PILUS_FRAGMENT_LATER;
			else if (fragment.offset & bpf_htons(1))
				packet->fragment = PILUS_FRAGMENT_FIRST;
			packet->fragment_id = fragment.id;
			if (packet->fragment == PILUS_FRAGMENT_LATER)	/* what follows is no header */
				break;
			continue;
		}
		if (next == PILUS_IPV6_ROUTING)	/* type 0 lets a sender choose the way; nobody needs the others */
			return -PILUS_DROP_INVALID_EXTENSION;
		if (next != PILUS_IPV6_HOP_BY_HOP && next != PILUS_IPV6_DESTINATION)
			break;
		if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)))
			return -PILUS_DROP_INVALID_EXTENSION;
		next = extension[0];
		offset += (extension[1] + 1) * 8;
	}
	packet->protocol = next;
	packet->l4_offset = offset;
	if (next == PILUS_IPV6_HOP_BY_HOP || next == PILUS_IPV6_DESTINATION || next == PILUS_IPV6_AUTHENTICATION ||
	    next == PILUS_IPV6_FRAGMENT || next == PILUS_IPV6_ROUTING)
		return -PILUS_DROP_INVALID_EXTENSION;
	return pilus_parse_part(skb, packet);
}
