/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The words the kernel and user space share. The only place where a struct, an enum or a constant that both sides
 * know is written: user space reads names, offsets and numbers from what the loader emits out of this file.
 *
 * Numbers are host endian unless their type says __be16 or __be32. Every struct has explicit, zeroed padding.
 * Map contents are rewritten whenever a layout's hash changes, but for the state maps (flows, embryonic): their structs may
 * only grow into reserved fields, of whatever name, so that another release reads what this one has written. The hash of such a
 * map counts its sizes and PILUS_FLOW_LAYOUT instead of its fields. Who moves a field raises that number, and gives up what
 * connections are open on a node that is upgraded.
 */
#pragma once

enum pilus_family {
	PILUS_FAMILY_LINK = 0,		/* endpoints alone: no address, but the number of a pod's link in its first word, host endian; 0: this
					 * host itself, if it has a policy */
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
	PILUS_IDENTITY_FIRST_FIXED = 128,	/* up to 255: given to pods by the cluster's settings */
};

/* The eight highest bits of an identity: who has given it. Other numbers than a cluster's differ from node to node. */
#define PILUS_IDENTITY_SCOPE_SHIFT 24
enum pilus_identity_scope {
	PILUS_IDENTITY_SCOPE_CLUSTER = 0,
	PILUS_IDENTITY_SCOPE_REMOTE_NODE = 2,	/* another node, known by its labels */
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
	u32 slot;			/* of generation: raised when identity, policy or path of this endpoint changes; the host's is 0 */
	u8 mac[6];			/* the pod's own */
	u8 gateway_mac[6];		/* the host's side's: what the pod sends to */
	u32 audit;			/* key of policies: what would hold if no policy were in audit mode; 0: none is */
	u32 reserved[2];
};

/* policies: number -> one compiled policy, shared by every endpoint to which the same rules apply. */
struct pilus_policy {			/* 48 bytes */
	u32 table[2];			/* port table of the default class, by enum pilus_direction: peers no row names */
	u32 class[2];			/* its class */
	u32 cidrs[2];			/* number of rows in cidrs: 0 saves the second question */
	u32 complete;			/* written last: 1 when every row of this policy is in the kernel, else the policy drops */
	u32 closes;			/* 1 << enum pilus_direction where it refuses anything: what is not asked lets pass */
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
	PILUS_DECISION_PASS = 3,	/* of the admin tier alone: the tiers below decide */
};

/* Two layers: what the tiers below the admin tier say, and above them that one. Of two answers (who, where) the higher holds, in
 * each layer for itself. */
struct pilus_verdict {			/* 32 bytes */
	u32 decision;			/* enum pilus_decision */
	u32 precedence;			/* of two the higher holds; equal: deny, allow, redirect */
	u32 rule;			/* the rule that decided, as numbered by the agent; 0: no rule, the default deny */
	u32 above;			/* enum pilus_decision, of the admin tier: anything but PASS decides */
	u32 above_precedence;		/* 0: no rule of it matches */
	u32 above_rule;
	u32 proxy_rules;		/* reserved for layer 7 */
	u32 auth;			/* reserved */
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

/* settings: what is the same for every packet on this node. One row, written by the agent before anything is attached. */
enum pilus_setting {
	PILUS_SETTING_READY = 1 << 0,		/* without it every packet drops: DROP_NO_CONFIG */
	PILUS_SETTING_TUNNEL = 1 << 1,		/* other nodes' pods are behind the tunnel; else routed directly */
	PILUS_SETTING_MASQUERADE_IPV4 = 1 << 2,	/* pods reach the outside with this node's address; else not at all */
	PILUS_SETTING_MASQUERADE_IPV6 = 1 << 3,
	PILUS_SETTING_CIDR_NODES = 1 << 4,	/* address rules of the outside scope mean other nodes' addresses too */
	PILUS_SETTING_HOST_FIREWALL = 1 << 5,	/* this host has a policy: that of the endpoint with link 0 */
	PILUS_SETTING_HOST_PROBES = 1 << 6,	/* ... which is not asked for what it sends to its pods */
	PILUS_SETTING_HOST_TUNNEL = 1 << 7,	/* ... nor for the tunnel's own packets: what is in them is judged */
};

struct pilus_settings {			/* 144 bytes */
	u32 flags;			/* enum pilus_setting */
	u32 tunnel_ifindex;
	u32 uplink_ifindex;
	u32 cluster;
	struct pilus_address node_ipv4;		/* this node's own on the underlay */
	struct pilus_address node_ipv6;
	struct pilus_address router_ipv4;	/* this node's own out of its pod range: the pods' gateway */
	struct pilus_address router_ipv6;
	u32 event_rate;			/* events a second of one endpoint and reason; 0: none */
	u32 event_burst;
	u32 timeout[4];			/* seconds without a packet, by enum pilus_flow_state; 0: the default */
	u32 flow_quota;			/* entries of flows that one endpoint may hold; 0: an eighth of them */
	u32 tunnel_mtu;			/* largest inner packet that fits through the tunnel; 0: not checked */
	u32 uplink_mtu;			/* largest packet that the uplink takes; 0: not checked */
	u32 tunnel_port;		/* UDP port of every node's tunnel, refused to pods; 0: none */
	u32 nat_first;			/* ports and identifiers for masquerading: nobody else on the node uses them */
	u32 nat_last;
};

/* Defaults of settings.timeout. */
#define PILUS_TIMEOUT_SYN 60
#define PILUS_TIMEOUT_ESTABLISHED 8000
#define PILUS_TIMEOUT_CLOSING 10
#define PILUS_TIMEOUT_OTHER 60

/* generation: slot -> how often what it stands for has changed. A flow's conclusion names three of them with their values:
 * slot 0 (everything), a local endpoint's (endpoints.slot, 1 to 32767), and the other side's: its own slot if it is a local
 * endpoint too, else one by its address, PILUS_GENERATION_ADDRESSES + (w * 0x9e3779b1 >> 17), w being the exclusive or of the
 * four words of its struct pilus_address as this machine reads them. */
#define PILUS_GENERATION_SLOTS 65536
#define PILUS_GENERATION_ADDRESSES 32768
#define PILUS_GENERATION_FACTOR 2654435761

/* Where a tuple was seen. One tuple at two hooks is two entries. */
enum pilus_zone {
	PILUS_ZONE_NONE = 0,
	PILUS_ZONE_POD_OUT = 1,		/* a pod sends it, replies included */
	PILUS_ZONE_OVERLAY_IN = 2,	/* out of the tunnel */
	PILUS_ZONE_HOST_OUT = 3,	/* this host's own stack sends it, to a pod or into the tunnel */
	PILUS_ZONE_UPLINK_IN = 4,
	PILUS_ZONE_UPLINK_OUT = 5,
	PILUS_ZONE_PROXY = 6,
	PILUS_ZONE_XDP = 7,
};

enum pilus_flow_role {
	PILUS_FLOW_FORWARD = 0,		/* the direction of the first packet, on which policy is decided */
	PILUS_FLOW_REPLY = 1,		/* passes because the other passed */
};

enum pilus_flow_state {
	PILUS_FLOW_SYN = 0,		/* TCP before both sides have spoken */
	PILUS_FLOW_ESTABLISHED = 1,	/* TCP */
	PILUS_FLOW_CLOSING = 2,		/* TCP after a FIN or RST of either side; data of either side restores it */
	PILUS_FLOW_OTHER = 3,		/* no TCP */
};

enum pilus_flow_flag {
	PILUS_FLOW_DENIED = 1 << 0,	/* the last decision anew was a refusal, and has been reported */
	PILUS_FLOW_AUDITED = 1 << 1,	/* it would have been, by a policy in audit mode */
};

/* flows, embryonic: one direction of a connection. Ports: an echo request has its identifier as source port, its reply as
 * destination port; the other one is 0. */
struct pilus_flow_key {			/* 40 bytes */
	u8 zone;			/* enum pilus_zone */
	u8 family;
	u8 protocol;
	u8 pad;
	__be16 source_port;
	__be16 destination_port;
	struct pilus_address source;
	struct pilus_address destination;
};

/* Of struct pilus_flow_key and pilus_flow: see above. */
#define PILUS_FLOW_LAYOUT 1

/* State: may only grow into the reserved fields. The first 64 bytes are what an established packet reads. */
struct pilus_flow {			/* 208 bytes */
	/* The conclusion: a cache. */
	u32 slot[3];			/* of generation: all, local endpoint, other side */
	u32 generation[3];		/* what they were when this was concluded */
	u32 ifindex;			/* where it goes */
	u8 path;			/* enum pilus_path */
	/* The record: state. */
	u8 role;			/* enum pilus_flow_role */
	u8 state;			/* enum pilus_flow_state */
	u8 flags;			/* enum pilus_flow_flag */
	u8 destination_mac[6];		/* conclusion */
	u8 source_mac[6];		/* conclusion */
	u32 mtu;			/* conclusion: of the path; 0: not checked */
	u32 link;			/* where it was decided: the pod's link ... */
	u32 vni;			/* ... or, out of the tunnel, the number and ... */
	u32 last_seen;			/* CLOCK_MONOTONIC_COARSE in seconds */
	u32 tunnel_id;			/* conclusion: the number it goes into the tunnel with */
	struct pilus_address outer;	/* ... the outer source */
	struct pilus_address tunnel;	/* conclusion: the other node */
	u64 packets;			/* of this direction; bytes with Ethernet headers */
	u64 bytes;
	u32 source_identity;		/* conclusion */
	u32 destination_identity;	/* conclusion */
	u32 rule;			/* conclusion: of the forward direction's policy */
	u32 endpoint;			/* number of the local endpoint whose quota it counts against */
	u8 zone;			/* of this entry */
	u8 pair_zone;			/* of the other direction's */
	u8 tcp_flags;			/* all that were seen */
	u8 pad;
	u32 pair_link;			/* where the other direction was decided */
	u32 created;			/* seconds, as last_seen */
	struct pilus_address nat;	/* masquerading: what the source becomes (forward), or the destination (reply) ... */
	u32 cluster;			/* reserved, as all that follows */
	struct pilus_address frontend;
	struct pilus_address direct_return;	/* but for its last word, in use: of masqueraded TCP, what the pod has acknowledged */
	u32 reverse;
	u32 proxy_rules;
	__be16 frontend_port;
	__be16 nat_port;		/* ... with this port or identifier; in use */
	u32 backend;
};

/* quotas: what an endpoint holds of flows. */
struct pilus_quota {			/* 8 bytes; index: the endpoint's number */
	u32 used;			/* grows at a promotion; recounted by the sweep */
	u32 refused;			/* promotions refused, because of this quota or a full table */
};

/* Where a program is attached; the first index of counters. */
enum pilus_hook {
	PILUS_HOOK_POD_FROM = 0,	/* tc ingress of the host's side of a pod's veth: what the pod sends */
	PILUS_HOOK_POD_TO = 1,		/* tc egress of it: what this host's own stack sends the pod */
	PILUS_HOOK_OVERLAY_FROM = 2,	/* tc ingress of the tunnel link */
	PILUS_HOOK_OVERLAY_TO = 3,	/* tc egress of it */
	PILUS_HOOK_UPLINK_FROM = 4,
	PILUS_HOOK_UPLINK_TO = 5,
	PILUS_HOOK_COUNT = 6,
};

#define PILUS_REASONS 256
#define PILUS_COUNTERS 1536	/* PILUS_HOOK_COUNT * PILUS_REASONS */

/* What is counted beside reasons, in their place. */
enum pilus_count {
	PILUS_COUNT_PASSED = 0,
	PILUS_COUNT_AUDITED = 1,	/* once more: passed, and a policy in audit mode would refuse it */
};

struct pilus_counter {			/* 16 bytes; per CPU; key: hook * PILUS_REASONS + reason, or enum pilus_count */
	u64 packets;
	u64 bytes;
};

enum pilus_path {
	PILUS_PATH_NONE = 0,
	PILUS_PATH_POD = 1,		/* to a pod of this node */
	PILUS_PATH_TUNNEL = 2,		/* to another node, through the tunnel */
	PILUS_PATH_HOST = 3,		/* to this host's own stack, or by the uplink as that one sent it */
	PILUS_PATH_ANSWER = 4,		/* answered here, back to who asked: ARP, neighbour discovery */
	PILUS_PATH_DIRECT = 5,		/* to another node, by the uplink as it is */
	PILUS_PATH_OUTSIDE = 6,		/* by the uplink, masqueraded; from here on the packet is rewritten */
	PILUS_PATH_BACK = 7,		/* to a pod of this node, from this node's own address back to its own */
};

/* events: what happened to a packet, for the observer. */
struct pilus_event {			/* 96 bytes */
	u64 time;			/* ns since boot */
	u32 reason;			/* enum pilus_drop; 0: it passed */
	u32 suppressed;			/* events of this endpoint and reason left out since the last one */
	u32 ifindex;			/* of the hook's link */
	u32 length;
	u32 source_identity;
	u32 destination_identity;
	u32 endpoint;			/* number of the local endpoint that sent or gets it; 0: none */
	u32 rule;			/* the rule of the policy below that decided; 0: none */
	u8 hook;			/* enum pilus_hook */
	u8 family;			/* enum pilus_family; 0: neither */
	u8 protocol;			/* IPPROTO_* */
	u8 path;			/* enum pilus_path */
	u8 direction;			/* enum pilus_direction whose policy decided */
	u8 tcp_flags;
	u8 icmp_type;
	u8 icmp_code;
	__be16 source_port;
	__be16 destination_port;
	u8 reply;			/* 1: of a connection that the destination began */
	u8 audited;			/* 1: it passed, and the rule is one of a policy in audit mode, which would refuse it */
	u8 pad[2];
	struct pilus_address source;
	struct pilus_address destination;
	u32 policy;			/* number of the policy that the rule is one of */
	u32 reserved;
};

struct pilus_bucket_key {		/* 8 bytes */
	u32 ifindex;			/* or 1 << 31 and an endpoint's number */
	u32 reason;
};

struct pilus_bucket {			/* 16 bytes */
	u64 refilled;			/* ns since boot */
	u32 tokens;
	u32 suppressed;
};

/* What is to be asked of policies in audit mode, and what came of it. */
enum pilus_audit {
	PILUS_AUDIT_INGRESS = 1 << 0,	/* 1 << enum pilus_direction */
	PILUS_AUDIT_EGRESS = 1 << 1,
	PILUS_AUDIT_OUTSIDE = 1 << 2,	/* address rules of the outside scope mean the other side */
	PILUS_AUDIT_REFUSED = 1 << 3,	/* it would be */
	PILUS_AUDIT_KNOWN = 1 << 4,	/* ... and that of its connection has been told */
};

/* scratch: one packet's context, handed from an entry program through its tail calls. Per CPU: tc programs are not
 * preempted by one another on a CPU. User space reads it in tests alone. */
struct pilus_packet {			/* 128 bytes */
	u32 family;			/* enum pilus_family */
	u32 hook;			/* enum pilus_hook */
	struct pilus_address source;
	struct pilus_address destination;
	u32 l4_offset;			/* from the start of the frame */
	u8 protocol;
	u8 ttl;
	u8 tcp_flags;
	u8 icmp_type;
	__be16 source_port;		/* TCP, UDP, SCTP; echo: the identifier */
	__be16 destination_port;
	u8 icmp_code;
	u8 direction;			/* enum pilus_direction whose policy decided */
	u8 fragment;			/* enum pilus_fragment_part */
	u8 audit;			/* enum pilus_audit */
	u32 source_identity;
	u32 destination_identity;
	u32 endpoint;
	u32 rule;
	u32 policy;			/* whose rule it is */
	u32 path;			/* enum pilus_path */
	u32 vni;			/* overlay: what the tunnel said */
	struct pilus_address outer;	/* overlay: who sent the tunnel packet */
	u32 reason;			/* why it drops, for the tail call that says so */
	u32 size;			/* of the IP packet */
	u32 headers;			/* of these, IP and layer 4 */
	u32 fragment_id;		/* as in the packet */
	u32 mtu;			/* of a path that it does not fit */
	u8 zone;			/* enum pilus_zone: where it was seen */
	u8 forward_zone;		/* where its connection was decided */
	u8 reply;			/* addresses and ports above are turned around: the forward direction's */
	u8 related;			/* an ICMP error about a connection that we know */
	u8 uncached;			/* makes no entry */
	u8 held;			/* a record of it exists */
	u8 denied;			/* ... and its last decision was a refusal */
	u8 quiet;			/* nothing has changed: no event */
};

/* draft: the conclusions that the packet at hand leads to. Per CPU, like scratch. */
struct pilus_draft {			/* 496 bytes */
	struct pilus_flow_key key;	/* of the forward direction */
	struct pilus_flow_key pair_key;	/* of the reply */
	struct pilus_flow flow;
	struct pilus_flow pair;
};

/* fragments: what a datagram's first fragment said, for the others. The key bounds what one link, or one node through the
 * tunnel, can hold: a newer datagram takes an older one's place. */
struct pilus_fragment_key {		/* 12 bytes */
	u32 link;
	__be32 outer;
	u32 place;			/* zone, and some bits of the datagram's number */
};

#define PILUS_FRAGMENT_PLACES 64
#define PILUS_FRAGMENT_TIMEOUT 30	/* seconds, as a receiver's reassembly (ipfrag_time) */

struct pilus_fragment {			/* 56 bytes */
	struct pilus_address source;
	struct pilus_address destination;
	u32 id;
	u32 last_seen;			/* seconds, as pilus_flow's */
	__be16 source_port;
	__be16 destination_port;
	u8 family;
	u8 protocol;
	u8 icmp_type;
	u8 icmp_code;
	u8 uncached;
	u8 pad[7];
};

enum pilus_fragment_part {
	PILUS_FRAGMENT_NONE = 0,
	PILUS_FRAGMENT_FIRST = 1,
	PILUS_FRAGMENT_LATER = 2,
};

/* Tail calls: slots of the program array. */
enum pilus_call {
	PILUS_CALL_DROP = 0,
	PILUS_CALL_PARSE_IPV4 = 1,
	PILUS_CALL_PARSE_IPV6 = 2,
	PILUS_CALL_POD_ARP = 3,
	PILUS_CALL_POD_ND = 4,
	PILUS_CALL_ARRIVE_POD = 5,
	PILUS_CALL_ARRIVE_OVERLAY = 6,
	PILUS_CALL_ARRIVE_HOST = 7,
	PILUS_CALL_DECIDE_POD = 8,
	PILUS_CALL_DECIDE_OVERLAY = 9,
	PILUS_CALL_DECIDE_HOST = 10,
	PILUS_CALL_COMMIT = 11,
	PILUS_CALL_OVERLAY_BODY = 12,
	PILUS_CALL_TOO_BIG = 13,
	PILUS_CALL_AUDIT = 14,
	PILUS_CALL_UPLINK_SLOW = 15,
	PILUS_CALL_NAT = 16,
	PILUS_CALL_NAT_ERROR = 17,
	PILUS_CALL_TRANSLATE = 18,
	PILUS_CALL_UPLINK_IPV4 = 19,
	PILUS_CALL_UPLINK_IPV6 = 20,
	PILUS_CALL_ARRIVE_UPLINK = 21,
	PILUS_CALL_DECIDE_UPLINK = 22,
	PILUS_CALL_UPLINK_ERROR = 23,
	PILUS_CALL_HOST_IN = 24,
	PILUS_CALL_HOST_OUT = 25,
	PILUS_CALL_LEAVE_IPV4 = 26,
	PILUS_CALL_LEAVE_IPV6 = 27,
	PILUS_CALL_ARRIVE_LEAVE = 28,
	PILUS_CALL_DECIDE_LEAVE = 29,
	PILUS_CALL_COUNT = 32,
};

/* Why a packet was dropped. Up to 204 the numbers and texts are the ones that flow tools know; from 230 on our own. A number
 * is never given again. The comment is the text that people see. */
enum pilus_drop {
	PILUS_DROP_INVALID_SOURCE_MAC = 130,	/* Invalid source mac */
	PILUS_DROP_INVALID_DESTINATION_MAC = 131,	/* Invalid destination mac */
	PILUS_DROP_INVALID_SOURCE_IP = 132,	/* Invalid source ip */
	PILUS_DROP_POLICY = 133,		/* Policy denied */
	PILUS_DROP_INVALID = 134,		/* Invalid packet */
	PILUS_DROP_INVALID_HEADER = 135,	/* CT: Truncated or invalid header */
	PILUS_DROP_TOO_BIG = 136,		/* Fragmentation needed */
	PILUS_DROP_UNKNOWN_L4 = 137,		/* CT: Unknown L4 protocol */
	PILUS_DROP_MISSED_TAIL_CALL = 140,	/* Missed tail call */
	PILUS_DROP_WRITE_ERROR = 141,		/* Error writing to packet */
	PILUS_DROP_NO_TUNNEL_KEY = 147,		/* Error retrieving tunnel key */
	PILUS_DROP_UNROUTABLE = 151,		/* Stale or unroutable IP */
	PILUS_DROP_NO_LOCAL_ENDPOINT = 152,	/* No matching local container found */
	PILUS_DROP_INVALID_EXTENSION = 156,	/* Invalid IPv6 extension header */
	PILUS_DROP_FRAGMENT = 157,		/* IP fragmentation not supported */
	PILUS_DROP_NO_CONFIG = 165,		/* No configuration available to perform policy decision */
	PILUS_DROP_UNSUPPORTED_L2 = 166,	/* Unsupported L2 protocol */
	PILUS_DROP_NAT_NO_MAPPING = 167,	/* No mapping for NAT masquerade */
	PILUS_DROP_NAT_PROTOCOL = 168,		/* Unsupported protocol for NAT masquerade */
	PILUS_DROP_UNKNOWN_SENDER = 172,	/* Unknown sender */
	PILUS_DROP_FRAGMENT_NOT_FOUND = 175,	/* First logical datagram fragment not found */
	PILUS_DROP_FORBIDDEN_ICMP6 = 176,	/* Forbidden ICMPv6 message */
	PILUS_DROP_POLICY_DENY = 181,		/* Policy denied by denylist */
	PILUS_DROP_VLAN = 182,			/* VLAN traffic disallowed by VLAN filter */
	PILUS_DROP_INVALID_VNI = 183,		/* Incorrect VNI from VTEP */
	PILUS_DROP_TTL_EXCEEDED = 196,		/* TTL exceeded */
	PILUS_DROP_ENDPOINT_NOT_READY = 203,	/* Endpoint policy program not available */
	PILUS_DROP_IP_OPTIONS = 230,		/* IP options are not accepted */
	PILUS_DROP_FORWARDED = 231,		/* Forwarded by the host's stack, which forwards nothing for pods */
	PILUS_DROP_HOUSEKEEPING = 232,		/* IPv6 housekeeping that needs no answer */
	PILUS_DROP_INVALID_ARP = 233,		/* ARP for what is not the gateway, or in another's name */
	PILUS_DROP_UNKNOWN_IDENTITY = 234,	/* Identity not known here yet */
	PILUS_DROP_WRONG_NODE = 235,		/* Tunnel packet from a node that does not have its sender */
	PILUS_DROP_OUTSIDE = 236,		/* No way out of the cluster */
	PILUS_DROP_AROUND_TUNNEL = 237,		/* To a pod's address around the tunnel */
	PILUS_DROP_UNTRANSLATED = 238,		/* A pod's address would leave the node untranslated */
	PILUS_DROP_TUNNEL_PORT = 239,		/* To a node's tunnel port, past the tunnel */
};

/* services: an address, port and protocol that clients ask for -> the backends it stands for. Port 0 of protocol 0 is every
 * port of the address that has no row of its own: nobody serves it. */
struct pilus_service_key {		/* 24 bytes */
	u32 family;			/* enum pilus_family */
	struct pilus_address address;
	__be16 port;
	u8 protocol;			/* IPPROTO_TCP or IPPROTO_UDP */
	u8 pad;
};

struct pilus_service {			/* 40 bytes */
	struct pilus_service_key own;	/* the key again, written before what follows: see pilus_service_of */
	u32 flags;			/* reserved */
	u32 reserved;
	u32 set;			/* of backends; 0: none */
	u32 count;			/* how many that set has; 0: connections are refused */
};

/* backends: a set's number and a slot from 0 on -> where to. A set is never changed: other backends are another set. */
struct pilus_backend_key {		/* 8 bytes */
	u32 set;
	u32 slot;
};

enum pilus_backend_state {
	PILUS_BACKEND_ACTIVE = 1,
	PILUS_BACKEND_TERMINATING = 2,	/* still serves, and takes new clients only where nobody else does */
};

struct pilus_backend {			/* 28 bytes */
	struct pilus_backend_key own;	/* the key again, as in struct pilus_service */
	struct pilus_address address;	/* of the service's family */
	__be16 port;
	u8 state;			/* enum pilus_backend_state */
	u8 family;
};

/* reverse: a socket and the backend it was given -> what it had asked for, for recvmsg and getpeername. */
struct pilus_reverse_key {		/* 32 bytes */
	u64 cookie;			/* the socket's */
	u32 family;
	struct pilus_address address;
	__be16 port;
	u8 protocol;
	u8 pad;
};

struct pilus_reverse {			/* 20 bytes */
	struct pilus_address address;
	__be16 port;
	u16 pad;
};

/* Where a socket program is attached, and what came of it: socket_counts[hook * PILUS_SOCKET_RESULTS + result]. */
enum pilus_socket_hook {
	PILUS_SOCKET_CONNECT = 0,
	PILUS_SOCKET_SEND = 1,		/* a datagram of a socket that is not connected */
	PILUS_SOCKET_RECEIVE = 2,	/* a datagram whose sender is asked for */
	PILUS_SOCKET_PEER = 3,		/* getpeername */
};

enum pilus_socket_result {
	PILUS_SOCKET_UNTOUCHED = 0,	/* no service */
	PILUS_SOCKET_TRANSLATED = 1,
	PILUS_SOCKET_NO_BACKEND = 2,	/* refused: nobody is ready */
	PILUS_SOCKET_NO_PORT = 3,	/* refused: the service's address, and a port that it does not have */
	PILUS_SOCKET_STALE = 4,		/* refused: backends were replaced faster than they could be read */
	PILUS_SOCKET_NO_REVERSE = 5,	/* counted besides: translated, but the way back could not be written down */
};

#define PILUS_SOCKET_RESULTS 8
#define PILUS_SOCKET_COUNTS 32	/* four hooks */
