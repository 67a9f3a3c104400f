/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Attached to the node's cgroup: every process of the node, pods' and its own. A client that asks for a service is given a
 * backend before a packet exists, so that nothing has to be translated on the way, there or back.
 *
 * Socket programs can be preempted and run on several sockets of a CPU at once: they share no scratch, and count atomically.
 */
#include "service.h"

#define PILUS_IPPROTO_MPTCP 262
#define PILUS_ECONNREFUSED 111
#define PILUS_MAPPED 0xffff		/* ::ffff:a.b.c.d: an IPv4 address in an IPv6 socket */
#define PILUS_ALLOW 1
#define PILUS_REFUSE 0

pilus_always void pilus_socket_count(u32 hook, int result)
{
	u32 index = hook * PILUS_SOCKET_RESULTS + (result & (PILUS_SOCKET_RESULTS - 1));
	u64 *count = socket_counts.lookup(&index);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* The address in the call, as services have it. `family` is the hook's; an IPv4 address in an IPv6 hook is one. */
pilus_always void pilus_socket_read(struct bpf_sock_addr *context, u32 family, struct pilus_service_key *found)
{
	found->family = family;
	if (family == PILUS_FAMILY_IPV4) {
		found->address.word[0] = context->user_ip4;
	} else {
		u32 first = context->user_ip6[0], second = context->user_ip6[1];
		u32 third = context->user_ip6[2], fourth = context->user_ip6[3];

		if (!first && !second && third == bpf_htonl(PILUS_MAPPED)) {
			found->family = PILUS_FAMILY_IPV4;
			found->address.word[0] = fourth;
		} else {
			found->address.word[0] = first;
			found->address.word[1] = second;
			found->address.word[2] = third;
			found->address.word[3] = fourth;
		}
	}
	found->port = context->user_port;
	found->protocol = context->protocol == PILUS_IPPROTO_MPTCP ? PILUS_IPPROTO_TCP : context->protocol;
}

/* Another address of the same family into the call; a mapped one stays mapped. */
pilus_always void pilus_socket_write(struct bpf_sock_addr *context, u32 family, const struct pilus_service_key *was,
				     const struct pilus_address *address, __be16 port)
{
	if (family == PILUS_FAMILY_IPV4) {
		context->user_ip4 = address->word[0];
	} else if (was->family == PILUS_FAMILY_IPV4) {
		context->user_ip6[3] = address->word[0];
	} else {
		context->user_ip6[0] = address->word[0];
		context->user_ip6[1] = address->word[1];
		context->user_ip6[2] = address->word[2];
		context->user_ip6[3] = address->word[3];
	}
	context->user_port = port;
}

pilus_always bool pilus_socket_is_ours(struct bpf_sock_addr *context)
{
	return context->protocol == PILUS_IPPROTO_TCP || context->protocol == PILUS_IPPROTO_UDP ||
	       context->protocol == PILUS_IPPROTO_MPTCP;
}

/* What a client sees where nobody serves: as from a host that has no such port. Without the helper (before 5.18) it is EPERM. */
pilus_always int pilus_socket_refuse(void)
{
#ifndef PILUS_WITHOUT_SET_RETVAL
	bpf_set_retval(-PILUS_ECONNREFUSED);
#endif
	return PILUS_REFUSE;
}

/* connect() and sendto(): from the frontend to a backend. */
pilus_always int pilus_socket_forward(struct bpf_sock_addr *context, u32 hook, u32 family)
{
	struct pilus_service_key asked = {};
	struct pilus_backend chosen = {};
	struct pilus_reverse_key socket = {};
	struct pilus_reverse frontend = {}, *known;
	u32 choice;
	int result;

	if (!pilus_socket_is_ours(context)) {
		pilus_socket_count(hook, PILUS_SOCKET_UNTOUCHED);
		return PILUS_ALLOW;
	}
	pilus_socket_read(context, family, &asked);
	socket.family = asked.family;
	socket.protocol = asked.protocol;
	if (!pilus_is_service(&asked)) {
		/* The same socket may have come here as a service's client before: it is none any more. */
		if (asked.protocol == PILUS_IPPROTO_UDP && hook == PILUS_SOCKET_CONNECT) {
			socket.cookie = bpf_get_socket_cookie(context);
			socket.address = asked.address;
			socket.port = asked.port;
			reverse.delete(&socket);
		}
		pilus_socket_count(hook, PILUS_SOCKET_UNTOUCHED);
		return PILUS_ALLOW;
	}
	socket.cookie = bpf_get_socket_cookie(context);
	/* TCP: anybody. UDP: one socket stays with one backend, as its datagrams may belong together. */
	if (asked.protocol == PILUS_IPPROTO_TCP)
		choice = bpf_get_prandom_u32();
	else
		choice = (socket.cookie * 0x9e3779b97f4a7c15ULL) >> 32;
	result = pilus_choose(&asked, choice, &chosen);
	if (result != PILUS_SOCKET_TRANSLATED) {
		pilus_socket_count(hook, result);
		return pilus_socket_refuse();
	}
	socket.address = chosen.address;
	socket.port = chosen.port;
	frontend.address = asked.address;
	frontend.port = asked.port;
	/* A socket's later datagrams find it there, and spare themselves the lock of an update. */
	known = reverse.lookup(&socket);
	if ((!known || known->port != frontend.port || !pilus_same_address(&known->address, &frontend.address)) &&
	    reverse.update(&socket, &frontend))
		pilus_socket_count(hook, PILUS_SOCKET_NO_REVERSE);
	pilus_socket_write(context, family, &asked, &chosen.address, chosen.port);
	pilus_socket_count(hook, result);
	return PILUS_ALLOW;
}

/* recvfrom() and getpeername(): from the backend back to the frontend. Must allow: the kernel takes no other answer here. */
pilus_always int pilus_socket_back(struct bpf_sock_addr *context, u32 hook, u32 family)
{
	struct pilus_service_key seen = {};
	struct pilus_reverse_key socket = {};
	struct pilus_reverse *frontend;

	if (!pilus_socket_is_ours(context)) {
		pilus_socket_count(hook, PILUS_SOCKET_UNTOUCHED);
		return PILUS_ALLOW;
	}
	pilus_socket_read(context, family, &seen);
	socket.cookie = bpf_get_socket_cookie(context);
	socket.family = seen.family;
	socket.address = seen.address;
	socket.port = seen.port;
	socket.protocol = seen.protocol;
	frontend = reverse.lookup(&socket);
	if (frontend)
		pilus_socket_write(context, family, &seen, &frontend->address, frontend->port);
	pilus_socket_count(hook, frontend ? PILUS_SOCKET_TRANSLATED : PILUS_SOCKET_UNTOUCHED);
	return PILUS_ALLOW;
}

PILUS_SOCKET(cgroup_inet4_connect, socket_connect4)
{
	return pilus_socket_forward(context, PILUS_SOCKET_CONNECT, PILUS_FAMILY_IPV4);
}

PILUS_SOCKET(cgroup_inet6_connect, socket_connect6)
{
	return pilus_socket_forward(context, PILUS_SOCKET_CONNECT, PILUS_FAMILY_IPV6);
}

PILUS_SOCKET(cgroup_udp4_sendmsg, socket_sendmsg4)
{
	return pilus_socket_forward(context, PILUS_SOCKET_SEND, PILUS_FAMILY_IPV4);
}

PILUS_SOCKET(cgroup_udp6_sendmsg, socket_sendmsg6)
{
	return pilus_socket_forward(context, PILUS_SOCKET_SEND, PILUS_FAMILY_IPV6);
}

PILUS_SOCKET(cgroup_udp4_recvmsg, socket_recvmsg4)
{
	return pilus_socket_back(context, PILUS_SOCKET_RECEIVE, PILUS_FAMILY_IPV4);
}

PILUS_SOCKET(cgroup_udp6_recvmsg, socket_recvmsg6)
{
	return pilus_socket_back(context, PILUS_SOCKET_RECEIVE, PILUS_FAMILY_IPV6);
}

PILUS_SOCKET(cgroup_inet4_getpeername, socket_getpeername4)
{
	return pilus_socket_back(context, PILUS_SOCKET_PEER, PILUS_FAMILY_IPV4);
}

PILUS_SOCKET(cgroup_inet6_getpeername, socket_getpeername6)
{
	return pilus_socket_back(context, PILUS_SOCKET_PEER, PILUS_FAMILY_IPV6);
}
