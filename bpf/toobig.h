/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A pod's packet that does not fit its path is answered from the gateway: "fragmentation needed" (RFC 792, RFC 1191) or "packet
 * too big" (RFC 4443 3.2), with the path's MTU and the beginning of the packet, so that its sender sends smaller ones.
 */
#pragma once
#include "flow.h"

/* Bytes of the refused packet's layer 4. Eight would do for its sender; but the kernel shortens no packet to before the checksum
 * that it has yet to fill in (CHECKSUM_PARTIAL), and TCP's ends at 18. */
#define PILUS_QUOTED 20

struct pilus_too_big_ipv4 {		/* 68 bytes */
	struct iphdr ip;
	u8 type, code;
	__be16 checksum, unused, mtu;
	u8 quoted[20 + PILUS_QUOTED];
};

struct pilus_too_big_ipv6 {		/* 108 bytes */
	struct ipv6hdr ip;
	u8 type, code;
	__be16 checksum;
	__be32 mtu;
	u8 quoted[40 + PILUS_QUOTED];
};

pilus_always __be16 pilus_fold(u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

pilus_always int pilus_too_big_ipv4(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_settings *now)
{
	struct pilus_too_big_ipv4 *answer;
	u32 grown = __builtin_offsetof(struct pilus_too_big_ipv4, quoted);

	if (bpf_skb_change_tail(skb, PILUS_ETHERNET_LENGTH + sizeof(struct iphdr) + PILUS_QUOTED, 0) ||
	    bpf_skb_adjust_room(skb, grown, BPF_ADJ_ROOM_MAC, 0) || !pilus_pull(skb, PILUS_ETHERNET_LENGTH + sizeof(*answer)))
		return -PILUS_DROP_WRITE_ERROR;
	answer = (void *)(long)skb->data + PILUS_ETHERNET_LENGTH;
	if ((void *)(answer + 1) > (void *)(long)skb->data_end)
		return -PILUS_DROP_WRITE_ERROR;
	__builtin_memset(answer, 0, __builtin_offsetof(struct pilus_too_big_ipv4, quoted));
	*(u8 *)&answer->ip = 0x45;
	answer->ip.tot_len = bpf_htons(sizeof(*answer));
	answer->ip.ttl = 64;
	answer->ip.protocol = PILUS_IPPROTO_ICMP;
	answer->ip.saddr = now->router_ipv4.word[0];
	answer->ip.daddr = packet->reply ? packet->destination.word[0] : packet->source.word[0];
	answer->ip.check = pilus_fold(bpf_csum_diff(0, 0, (void *)&answer->ip, sizeof(answer->ip), 0));
	answer->type = 3;
	answer->code = 4;
	answer->mtu = bpf_htons(packet->mtu);
	answer->checksum = pilus_fold(bpf_csum_diff(0, 0, (void *)&answer->type, sizeof(*answer) - sizeof(answer->ip), 0));
	return 0;
}

pilus_always int pilus_too_big_ipv6(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_settings *now)
{
	struct {
		struct pilus_address source, destination;
		__be32 length, next;
	} pseudo = {};
	struct pilus_too_big_ipv6 *answer;
	u32 grown = __builtin_offsetof(struct pilus_too_big_ipv6, quoted);
	u32 length = sizeof(*answer) - sizeof(struct ipv6hdr);
	u64 sum;

	if (bpf_skb_change_tail(skb, PILUS_ETHERNET_LENGTH + sizeof(struct ipv6hdr) + PILUS_QUOTED, 0) ||
	    bpf_skb_adjust_room(skb, grown, BPF_ADJ_ROOM_MAC, 0) || !pilus_pull(skb, PILUS_ETHERNET_LENGTH + sizeof(*answer)))
		return -PILUS_DROP_WRITE_ERROR;
	answer = (void *)(long)skb->data + PILUS_ETHERNET_LENGTH;
	if ((void *)(answer + 1) > (void *)(long)skb->data_end)
		return -PILUS_DROP_WRITE_ERROR;
	__builtin_memset(answer, 0, __builtin_offsetof(struct pilus_too_big_ipv6, quoted));
	*(u8 *)&answer->ip = 0x60;
	answer->ip.payload_len = bpf_htons(length);
	answer->ip.nexthdr = PILUS_IPPROTO_ICMPV6;
	answer->ip.hop_limit = 64;
	pseudo.source = now->router_ipv6;
	pseudo.destination = packet->reply ? packet->destination : packet->source;
	__builtin_memcpy(&answer->ip.saddr, &pseudo.source, sizeof(pseudo.source));
	__builtin_memcpy(&answer->ip.daddr, &pseudo.destination, sizeof(pseudo.destination));
	answer->type = 2;
	answer->mtu = bpf_htonl(packet->mtu);
	pseudo.length = bpf_htonl(length);
	pseudo.next = bpf_htonl(PILUS_IPPROTO_ICMPV6);
	sum = bpf_csum_diff(0, 0, (void *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(0, 0, (void *)&answer->type, sizeof(*answer) - sizeof(answer->ip), sum);
	answer->checksum = pilus_fold(sum);
	return 0;
}

/* Counted and shown as a drop of the packet; what is left of it goes back as the answer. */
pilus_always int pilus_answer_too_big(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_settings *now)
{
	u8 ours[6], theirs[6];
	struct ethhdr *ethernet;
	int result;

	pilus_count(skb, packet->hook, PILUS_DROP_TOO_BIG);
	pilus_report(skb, packet, PILUS_DROP_TOO_BIG);
	if (packet->family == PILUS_FAMILY_IPV4)
		result = pilus_too_big_ipv4(skb, packet, now);
	else
		result = pilus_too_big_ipv6(skb, packet, now);
	ethernet = (void *)(long)skb->data;
	if (result || (void *)(ethernet + 1) > (void *)(long)skb->data_end)
		return PILUS_ACT_SHOT;
	pilus_copy_mac(ours, ethernet->h_dest);
	pilus_copy_mac(theirs, ethernet->h_source);
	pilus_copy_mac(ethernet->h_dest, theirs);
	pilus_copy_mac(ethernet->h_source, ours);
	return bpf_redirect_peer(skb->ifindex, 0);
}
