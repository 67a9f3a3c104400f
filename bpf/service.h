/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Services: what clients ask for, who serves it, and which it became for a socket.
 *
 * A service is switched by one write: its row names a set of backends that is complete before it is named, never changed, and
 * removed no earlier than a second after it is named no more.
 */
#pragma once
#include "parse.h"

#ifndef PILUS_SERVICES_SIZE
#define PILUS_SERVICES_SIZE 65536
#endif
#ifndef PILUS_BACKENDS_SIZE
#define PILUS_BACKENDS_SIZE 262144
#endif
#ifndef PILUS_REVERSE_SIZE
#define PILUS_REVERSE_SIZE 65536
#endif

/* Written by the agent. Read at every connect and at every datagram of a socket that is not connected.
 * Frontend's address, port and protocol -> its set of backends. */
PILUS_MAP("hash", struct pilus_service_key, struct pilus_service, services, PILUS_SERVICES_SIZE, BPF_F_NO_PREALLOC);

/* Written by the agent, before a service names the set. Read where a service is found.
 * Set and slot -> one backend. */
PILUS_MAP("hash", struct pilus_backend_key, struct pilus_backend, backends, PILUS_BACKENDS_SIZE, BPF_F_NO_PREALLOC);

/* Written and read by socket programs.
 * Socket and backend -> the frontend that was asked for. */
PILUS_MAP("lru_hash", struct pilus_reverse_key, struct pilus_reverse, reverse, PILUS_REVERSE_SIZE, 0);

/* Written by socket programs. Read by the agent.
 * Hook and result -> how often. */
PILUS_MAP("percpu_array", u32, u64, socket_counts, PILUS_SOCKET_COUNTS, 0);

/* A program of the node's cgroup, found by the loader by this name; where it is attached is the kernel's own word. */
#define PILUS_SOCKET(attach, name) int name(struct bpf_sock_addr *context)

#define PILUS_SERVICE_ATTEMPTS 3

/* What was read stays read before what follows. */
pilus_always void pilus_order(void)
{
	asm volatile("" ::: "memory");
}

pilus_always bool pilus_same_service(const struct pilus_service_key *left, const struct pilus_service_key *right)
{
	return left->family == right->family && pilus_same_address(&left->address, &right->address) &&
	       left->port == right->port && left->protocol == right->protocol;
}

/* Whether it is a service's address, on whatever port: each has a row for that. Cost of a client that asks for none: this lookup,
 * once for each connection. */
pilus_always bool pilus_is_service(const struct pilus_service_key *asked)
{
	struct pilus_service_key any = { .family = asked->family, .address = asked->address };

	return services.lookup(&any);
}

/*
 * The backends of a frontend, now: copied, and only then compared with what was asked for. A socket program may be preempted
 * between finding a row and reading it, and the kernel gives the memory of a removed row to the next one without waiting for
 * readers (since 6.1): what was read may be another service's. Such a row bears another key, which its writer copies in first.
 *
 * PILUS_SOCKET_TRANSLATED and *set, *count; or why not.
 */
pilus_always int pilus_service_of(struct pilus_service_key *asked, u32 *set, u32 *count)
{
	struct pilus_service *service = services.lookup(asked);

	if (!service)
		return PILUS_SOCKET_NO_PORT;
	*set = *(volatile u32 *)&service->set;
	*count = *(volatile u32 *)&service->count;
	pilus_order();
	if (!pilus_same_service(&service->own, asked))
		return PILUS_SOCKET_STALE;
	return *count ? PILUS_SOCKET_TRANSLATED : PILUS_SOCKET_NO_BACKEND;
}

/* One of a set: PILUS_SOCKET_TRANSLATED, or that it is gone. `choice` is any number: the same one finds the same backend as long as the set is the same. */
pilus_always int pilus_backend_of(u32 set, u32 count, u32 choice, struct pilus_backend *chosen)
{
	struct pilus_backend_key key = { .set = set, .slot = choice % count };
	struct pilus_backend *backend = backends.lookup(&key);

	if (!backend)
		return PILUS_SOCKET_STALE;
	__builtin_memcpy(chosen, backend, sizeof(*chosen));
	pilus_order();
	if (backend->own.set != key.set || backend->own.slot != key.slot)
		return PILUS_SOCKET_STALE;
	return PILUS_SOCKET_TRANSLATED;
}

/* Who serves what is asked for: PILUS_SOCKET_TRANSLATED and *chosen, or why not. */
pilus_always int pilus_choose(struct pilus_service_key *asked, u32 choice, struct pilus_backend *chosen)
{
	int result = PILUS_SOCKET_STALE;

#pragma unroll
	for (int attempt = 0; attempt < PILUS_SERVICE_ATTEMPTS; attempt++) {
		u32 set = 0, count = 0;

		result = pilus_service_of(asked, &set, &count);
		if (result == PILUS_SOCKET_TRANSLATED)
			result = pilus_backend_of(set, count, choice, chosen);
		if (result != PILUS_SOCKET_STALE)
			break;
	}
	return result;
}
