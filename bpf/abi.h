/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The words the kernel and user space share. The only place where a struct, an enum or a constant that both sides
 * know is written: user space reads names, offsets and numbers from what the loader emits out of this file.
 *
 * Numbers are host endian unless their type says __be16 or __be32. Every struct has explicit, zeroed padding.
 * Map contents are rewritten whenever a layout's hash changes, but for the state maps (flows, embryonic, snat):
 * their structs may only grow into the fields called reserved.
 */
#pragma once

enum pilus_family {
	PILUS_FAMILY_IPV4 = 4,
	PILUS_FAMILY_IPV6 = 6,
};

enum pilus_direction {
	PILUS_DIRECTION_INGRESS = 0,	/* to the endpoint that has the policy */
	PILUS_DIRECTION_EGRESS = 1,	/* from it */
};

/* Reserved identities that programs know by number; user space has the whole list. */
enum pilus_identity {
	PILUS_IDENTITY_UNKNOWN = 0,
	PILUS_IDENTITY_HOST = 1,
	PILUS_IDENTITY_WORLD = 2,		/* and what 9 and 10 become on the wire */
	PILUS_IDENTITY_INIT = 5,
	PILUS_IDENTITY_REMOTE_NODE = 6,
	PILUS_IDENTITY_KUBE_APISERVER = 7,
	PILUS_IDENTITY_INGRESS = 8,
	PILUS_IDENTITY_WORLD_IPV4 = 9,
	PILUS_IDENTITY_WORLD_IPV6 = 10,
};

struct pilus_address {			/* 16 bytes */
	__be32 word[4];			/* IPv4: word[0], the rest zero */
};

struct pilus_prefix {			/* 24 bytes; LPM key of ipcache and pod_ranges */
	u32 length;			/* bits that count: 32 + the prefix's */
	u32 family;			/* enum pilus_family */
	struct pilus_address address;
};

/* endpoints: a local address, family and all -> who has it and how to reach it. */
struct pilus_endpoint_key {		/* 20 bytes */
	u32 family;
	struct pilus_address address;
};

enum pilus_endpoint_flag {
	PILUS_ENDPOINT_INGRESS_ENFORCED = 1 << 0,	/* without it the direction is open, policy or not */
	PILUS_ENDPOINT_EGRESS_ENFORCED = 1 << 1,
	PILUS_ENDPOINT_READY = 1 << 2,			/* without it every packet drops: DROP_EP_NOT_READY */
};

struct pilus_endpoint {			/* 48 bytes */
	u32 ifindex;			/* the host's side of its veth; a source address is its own only there */
	u32 identity;
	u32 policy;			/* key of policies; 0: none, which passes only a direction that is not enforced */
	u32 number;			/* 1..65535, unique on the node, what CiliumEndpoint's status.id shows */
	u32 flags;			/* enum pilus_endpoint_flag */
	u32 slot;			/* of generation: raised when identity, policy or path of this endpoint changes */
	u8 mac[6];			/* the pod's own */
	u8 gateway_mac[6];		/* the host's side's: what the pod sends to */
	u32 reserved[3];
};

/* policies: number -> one compiled policy, shared by every endpoint to which the same rules apply. */
struct pilus_policy {			/* 48 bytes */
	u32 table[2];			/* port table of the default class, by enum pilus_direction: peers no row names */
	u32 class[2];			/* its class */
	u32 cidrs[2];			/* number of rows in cidrs: 0 saves the second question */
	u32 complete;			/* written last: 1 when every row of this policy is in the kernel, else the policy drops */
	u32 reserved;
	u8 hash[16];			/* of its content: how a restarted agent recognises it */
};

/* peers: who the other side is. No row: the policy's default class. */
struct pilus_peer_key {			/* 12 bytes */
	u32 policy;
	u32 direction;			/* enum pilus_direction */
	u32 identity;
};

struct pilus_class {			/* 8 bytes; value of peers and of cidrs */
	u32 table;			/* port table */
	u32 number;			/* class, for explaining */
};

enum pilus_cidr_scope {
	PILUS_CIDR_SCOPE_ANY = 0,	/* rules that match any address: ipBlock */
	PILUS_CIDR_SCOPE_OUTSIDE = 1,	/* rules that match what is outside the cluster: fromCIDR and toCIDR */
};

/* cidrs: where the other side is. Longest match per scope; a row's class is the set of all address rules that contain it.
 * The outside scope's rows include the rules of the any scope that contain them: one lookup per packet is complete. */
struct pilus_cidr_key {			/* 28 bytes; LPM */
	u32 length;			/* 64 + the prefix's bits */
	u32 policy;
	u8 direction;
	u8 scope;			/* enum pilus_cidr_scope */
	u8 family;
	u8 pad;
	struct pilus_address address;
};

/* verdicts: a port table's answer. Immutable, named by content; deny is already resolved, so the longest match is it. */
struct pilus_verdict_key {		/* 12 bytes; LPM */
	u32 length;			/* 32: any protocol; 48: one protocol, any port; 48 + n: n leading bits of the port */
	u32 table;
	u8 protocol;			/* IPPROTO_*; 0 with length 32 */
	u8 pad;
	__be16 port;			/* destination port; ICMP: the type */
};

enum pilus_decision {
	PILUS_DECISION_DENY = 0,	/* zero, so that a row never written denies */
	PILUS_DECISION_ALLOW = 1,
	PILUS_DECISION_REDIRECT = 2,	/* reserved for layer 7 */
};

struct pilus_verdict {			/* 24 bytes */
	u32 decision;			/* enum pilus_decision */
	u32 precedence;			/* of two answers (who, where) the higher holds; equal: deny, allow, redirect */
	u32 rule;			/* the rule that decided, as numbered by the agent; 0: no rule, the default deny */
	u32 proxy_rules;		/* reserved for layer 7 */
	u32 auth;			/* reserved */
	u32 reserved;
};

/* identities: known, and compiled into every policy on this node. An identity without a row is dropped, not classified. */
struct pilus_known_identity {		/* 8 bytes */
	u32 cluster;
	u32 reserved;
};

/* ipcache: address -> who, and behind which node. */
enum pilus_ipcache_flag {
	PILUS_IPCACHE_POD = 1 << 0,
	PILUS_IPCACHE_NODE = 1 << 1,		/* a node's own address on the underlay: reached directly, never tunnelled */
	PILUS_IPCACHE_ROUTER = 1 << 2,		/* a node's address out of its pod range: reached like a pod */
	PILUS_IPCACHE_LOCAL = 1 << 3,		/* on this node */
};

struct pilus_ipcache {			/* 32 bytes */
	u32 identity;
	u32 flags;			/* enum pilus_ipcache_flag */
	u32 tunnel_family;		/* 0: no tunnel (this node, or the outside) */
	u32 slot;			/* of generation: raised when this row changes */
	struct pilus_address tunnel;	/* the other node's underlay address */
};

/* pod_ranges: every node's pod ranges. Consulted before anybody's address rules: an address inside without an ipcache
 * row is a pod of unknown identity. */
struct pilus_pod_range {		/* 32 bytes */
	u32 flags;			/* enum pilus_ipcache_flag: LOCAL */
	u32 cluster;
	u32 tunnel_family;
	u32 reserved;
	struct pilus_address tunnel;	/* the node's underlay address: the only outer source accepted for this range */
};

/* nodes: an outer source address -> the node that may send from it. */
struct pilus_node {			/* 16 bytes */
	u32 cluster;
	u32 reserved[3];
};
