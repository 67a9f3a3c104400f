/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map: who writes, who reads, what maps to what. */
#pragma once
#include "abi.h"

/* Sizes may be given by the loader's configuration. */
#ifndef PILUS_ENDPOINTS_SIZE
#define PILUS_ENDPOINTS_SIZE 4096
#endif
#ifndef PILUS_IPCACHE_SIZE
#define PILUS_IPCACHE_SIZE 262144
#endif
#ifndef PILUS_POD_RANGES_SIZE
#define PILUS_POD_RANGES_SIZE 16384
#endif
#ifndef PILUS_IDENTITIES_SIZE
#define PILUS_IDENTITIES_SIZE 65536
#endif
#ifndef PILUS_POLICIES_SIZE
#define PILUS_POLICIES_SIZE 4096
#endif
#ifndef PILUS_PEERS_SIZE
#define PILUS_PEERS_SIZE 524288
#endif
#ifndef PILUS_CIDRS_SIZE
#define PILUS_CIDRS_SIZE 131072
#endif
#ifndef PILUS_VERDICTS_SIZE
#define PILUS_VERDICTS_SIZE 131072
#endif
#ifndef PILUS_BUCKETS_SIZE
#define PILUS_BUCKETS_SIZE 4096
#endif
#ifndef PILUS_FLOWS_SIZE
#define PILUS_FLOWS_SIZE 262144
#endif
#ifndef PILUS_EMBRYONIC_SIZE
#define PILUS_EMBRYONIC_SIZE 65536
#endif
#ifndef PILUS_FRAGMENTS_SIZE
#define PILUS_FRAGMENTS_SIZE 16384
#endif
#ifndef PILUS_EVENTS_SIZE
#define PILUS_EVENTS_SIZE 2097152
#endif

/* A map with the pin that the loader chose for it: the path carries the hash of the layout, so that a pin of another
 * layout is never opened by mistake. */
#define PILUS_MAP(type, key, leaf, name, size, flags) \
	BPF_TABLE_PINNED7(type, key, leaf, name, size, PILUS_PIN_##name, flags)

/* Programs and slots, found by the loader by these names. */
#define PILUS_PROGRAM(type, name) int name(struct __sk_buff *skb)
#define PILUS_TAIL(slot, name) int name(struct __sk_buff *skb)

/* Written by the agent, once before anything is attached and at a change of configuration. Read by every program.
 * 0 -> the node's settings. */
PILUS_MAP("array", u32, struct pilus_settings, settings, 1, 0);

/* Written by the agent. Read for every packet from and to a pod.
 * Address of a local pod -> its link, identity, policy, MACs. */
PILUS_MAP("hash", struct pilus_endpoint_key, struct pilus_endpoint, endpoints, PILUS_ENDPOINTS_SIZE, BPF_F_NO_PREALLOC);

/* Written by the agent. Read on the slow path.
 * Address -> identity, and the node it is behind. */
PILUS_MAP("lpm_trie", struct pilus_prefix, struct pilus_ipcache, ipcache, PILUS_IPCACHE_SIZE, BPF_F_NO_PREALLOC);

/* Written by the agent. Read on the slow path, and for every packet from the tunnel.
 * Pod range of a node -> the node's address on the underlay. */
PILUS_MAP("lpm_trie", struct pilus_prefix, struct pilus_pod_range, pod_ranges, PILUS_POD_RANGES_SIZE, BPF_F_NO_PREALLOC);

/* Written by the agent. Read on the slow path, and for every packet from the tunnel.
 * Identity -> it is known and compiled into every policy of this node. */
PILUS_MAP("hash", u32, struct pilus_known_identity, identities, PILUS_IDENTITIES_SIZE, BPF_F_NO_PREALLOC);

/* Written by the agent; `complete` last. Read on the slow path.
 * Policy number -> the default class of each direction. */
PILUS_MAP("hash", u32, struct pilus_policy, policies, PILUS_POLICIES_SIZE, BPF_F_NO_PREALLOC);

/* Written by the agent. Read on the slow path.
 * Policy, direction, the other side's identity -> its class. */
PILUS_MAP("hash", struct pilus_peer_key, struct pilus_class, peers, PILUS_PEERS_SIZE, BPF_F_NO_PREALLOC);

/* Written by the agent. Read on the slow path, for policies with rules by address.
 * Policy, direction, scope, the other side's address -> its class. */
PILUS_MAP("lpm_trie", struct pilus_cidr_key, struct pilus_class, cidrs, PILUS_CIDRS_SIZE, BPF_F_NO_PREALLOC);

/* Written by the agent. Read on the slow path.
 * Port table, protocol, destination port -> the answer. */
PILUS_MAP("lpm_trie", struct pilus_verdict_key, struct pilus_verdict, verdicts, PILUS_VERDICTS_SIZE, BPF_F_NO_PREALLOC);

/* Written by the agent, after the tables and before anything is removed. Read for every packet of a known flow.
 * Slot -> how often what it stands for has changed. */
PILUS_MAP("array", u32, u32, generation, PILUS_GENERATION_SLOTS, 0);

/* Written by the programs; the observer deletes what has expired. Read for every packet.
 * Zone and tuple of a flow whose both sides have spoken -> conclusion and record. */
PILUS_MAP("hash", struct pilus_flow_key, struct pilus_flow, flows, PILUS_FLOWS_SIZE, BPF_F_NO_PREALLOC);

/* Written by the programs. Read for a packet that has no entry in flows.
 * Zone and tuple of a flow whose one side alone has spoken -> the same. A flood evicts what is in here, and nothing else. */
PILUS_MAP("lru_hash", struct pilus_flow_key, struct pilus_flow, embryonic, PILUS_EMBRYONIC_SIZE, 0);

/* Written and read by the programs, on the slow path.
 * Link and place -> what a datagram's first fragment said. */
PILUS_MAP("lru_hash", struct pilus_fragment_key, struct pilus_fragment, fragments, PILUS_FRAGMENTS_SIZE, 0);

/* Written and read by the programs, where an expired reply's entry makes room for another: whoever has the key, does it. Empty
 * but for that instant. */
PILUS_MAP("hash", struct pilus_flow_key, u32, claims, 1024, BPF_F_NO_PREALLOC);

/* Written by the programs at a promotion; recounted by the observer's sweep.
 * Number of an endpoint -> how many entries of flows it holds. */
PILUS_MAP("array", u32, struct pilus_quota, quotas, 65536, 0);

/* Written by every program. Read by the observer and the agent.
 * Hook and reason -> packets and bytes. */
PILUS_MAP("percpu_array", u32, struct pilus_counter, counters, PILUS_COUNTERS, 0);

/* Written and read by every program.
 * Link and reason -> how many events may still be sent. */
PILUS_MAP("lru_hash", struct pilus_bucket_key, struct pilus_bucket, buckets, PILUS_BUCKETS_SIZE, 0);

/* Written and read by tc programs: the packet at hand. */
PILUS_MAP("percpu_array", u32, struct pilus_packet, scratch, 1, 0);

/* Written and read by tc programs: what the packet at hand leads to. */
PILUS_MAP("percpu_array", u32, struct pilus_draft, draft, 1, 0);

/* Filled by the loader before anything is attached, never afterwards: closing a program array's last descriptor empties it. */
PILUS_MAP("prog", u32, u32, calls, PILUS_CALL_COUNT, 0);

/* A ring buffer whose pin the loader chose; the size is in bytes. */
#define PILUS_RINGBUF(name, record, size)				\
	struct name##_table_t {						\
		int key;						\
		u32 leaf;						\
		int (*ringbuf_output)(void *, u64, u64);		\
		void *(*ringbuf_reserve)(u64);				\
		void (*ringbuf_discard)(void *, u64);			\
		void (*ringbuf_submit)(void *, u64);			\
		u64 (*ringbuf_query)(u64);				\
		u32 max_entries;					\
	};								\
	__attribute__((section("maps/ringbuf:" PILUS_PIN_##name)))	\
	struct name##_table_t name = { .max_entries = size }

/* Written by every program, read by the observer. Without a wake-up at each record: the reader comes by itself. */
PILUS_RINGBUF(events, struct pilus_event, PILUS_EVENTS_SIZE);
