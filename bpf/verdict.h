/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one exit of every program: a result becomes an action, a count and an event. Counts are exact; events pass a token
 * bucket for each endpoint and reason, and carry the number of those that did not.
 */
#pragma once
#include "parse.h"

#define PILUS_ACT_OK 0
#define PILUS_ACT_SHOT 2
#define PILUS_ACT_PIPE 3		/* to the next filter, or on where there is none */
#define PILUS_RB_NO_WAKEUP 1
#define PILUS_SECOND 1000000000ULL

pilus_always void pilus_count(struct __sk_buff *skb, u32 hook, u32 reason)
{
	u32 index = hook * PILUS_REASONS + (reason & (PILUS_REASONS - 1));
	struct pilus_counter *counter = counters.lookup(&index);

	if (counter) {
		counter->packets++;
		counter->bytes += skb->len;
	}
}

/* A bucket is a local endpoint's, by its number, or a link's where no endpoint is known. */
#define PILUS_BUCKET_ENDPOINT 0x80000000

/* Whether an event may be sent now; what may not is counted into *suppressed of the next that may. */
pilus_always bool pilus_event_allowed(u32 whose, u32 reason, const struct pilus_settings *now, u32 *suppressed)
{
	struct pilus_bucket_key key = { .ifindex = whose, .reason = reason };
	struct pilus_bucket *bucket = buckets.lookup(&key);
	u64 time = bpf_ktime_get_boot_ns();
	u64 gained;

	if (!now->event_rate)
		return false;
	if (!bucket) {
		struct pilus_bucket first = { .refilled = time, .tokens = now->event_burst };

		buckets.update(&key, &first);
		return true;
	}
	/* Two CPUs may take one token twice, or refill twice: a few events more, never a lost count of packets. */
	gained = (time - bucket->refilled) * now->event_rate / PILUS_SECOND;
	if (gained) {
		gained += bucket->tokens;
		bucket->tokens = gained > now->event_burst ? now->event_burst : gained;
		bucket->refilled = time;
	}
	if (!bucket->tokens) {
		__sync_fetch_and_add(&bucket->suppressed, 1);
		return false;
	}
	bucket->tokens--;
	*suppressed = bucket->suppressed;
	bucket->suppressed = 0;
	return true;
}

pilus_always void pilus_report(struct __sk_buff *skb, const struct pilus_packet *packet, u32 reason)
{
	u32 zero = 0, suppressed = 0;
	struct pilus_settings *now = settings.lookup(&zero);
	struct pilus_event *event;

	if (!now || !pilus_event_allowed(packet->endpoint ? PILUS_BUCKET_ENDPOINT | packet->endpoint : skb->ifindex, reason, now,
					 &suppressed))
		return;
	event = events.ringbuf_reserve(sizeof(struct pilus_event));
	if (!event)
		return;		/* the reader is away or slow: the counters have it all the same */
	event->time = bpf_ktime_get_boot_ns();
	event->reason = reason;
	event->suppressed = suppressed;
	event->ifindex = skb->ifindex;
	event->length = skb->len;
	event->endpoint = packet->endpoint;
	event->rule = packet->rule;
	event->policy = packet->policy;
	event->reserved = 0;
	event->hook = packet->hook;
	event->family = packet->family;
	event->protocol = packet->protocol;
	event->path = packet->path;
	event->direction = packet->direction;
	event->tcp_flags = packet->tcp_flags;
	event->icmp_type = packet->icmp_type;
	event->icmp_code = packet->icmp_code;
	event->reply = packet->reply;
	event->audited = !reason && packet->audit & PILUS_AUDIT_REFUSED;
	__builtin_memset(event->pad, 0, sizeof(event->pad));
	if (packet->reply) {	/* turned around for the decision: the event shows the packet */
		event->source_identity = packet->destination_identity;
		event->destination_identity = packet->source_identity;
		event->source_port = packet->destination_port;
		event->destination_port = packet->source_port;
		event->source = packet->destination;
		event->destination = packet->source;
	} else {
		event->source_identity = packet->source_identity;
		event->destination_identity = packet->destination_identity;
		event->source_port = packet->source_port;
		event->destination_port = packet->destination_port;
		event->source = packet->source;
		event->destination = packet->destination;
	}
	events.ringbuf_submit(event, PILUS_RB_NO_WAKEUP);
}

/* A result is an action (0 or more), or a reason as a negative number. */
pilus_always int pilus_exit(struct __sk_buff *skb, const struct pilus_packet *packet, int result)
{
	u32 reason = result < 0 ? -result : 0;

	pilus_count(skb, packet->hook, reason);
	if (!reason)
		return result;
	if (reason != PILUS_DROP_HOUSEKEEPING && !packet->quiet)	/* every pod does it all the time: counted, no event */
		pilus_report(skb, packet, reason);
	return PILUS_ACT_SHOT;
}

/* The same exit for an entry program, whose size counts: a tail call says it. */
pilus_always int pilus_drop(struct __sk_buff *skb, struct pilus_packet *packet, int result)
{
	packet->reason = -result;
	calls.call(skb, PILUS_CALL_DROP);
	return PILUS_ACT_SHOT;
}

/* The context of the packet at hand; NULL never happens, but the verifier asks. */
pilus_always struct pilus_packet *pilus_scratch(void)
{
	u32 zero = 0;

	return scratch.lookup(&zero);
}

/* A context for a new packet, with nothing of the last one in it. */
pilus_always struct pilus_packet *pilus_begin(u32 hook)
{
	struct pilus_packet *packet = pilus_scratch();

	if (packet) {
		__builtin_memset(packet, 0, sizeof(*packet));
		packet->hook = hook;
	}
	return packet;
}

/* To the uplink's own slow path, which passes to the host's stack what is not ours (uplink.c). */
pilus_always int pilus_uplink_slowly(struct __sk_buff *skb, struct pilus_packet *packet)
{
	if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV4))
		calls.call(skb, PILUS_CALL_UPLINK_IPV4);
	else
		calls.call(skb, PILUS_CALL_UPLINK_IPV6);
	return pilus_drop(skb, packet, -PILUS_DROP_MISSED_TAIL_CALL);
}

/* To the slow path: parse, arrive, decide, commit, each a tail call (slow.c, conclude.c). */
pilus_always int pilus_parse_slowly(struct __sk_buff *skb, struct pilus_packet *packet)
{
	if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV4))
		calls.call(skb, PILUS_CALL_PARSE_IPV4);
	else if (skb->protocol == bpf_htons(PILUS_ETHERTYPE_IPV6))
		calls.call(skb, PILUS_CALL_PARSE_IPV6);
	else
		return pilus_drop(skb, packet, -PILUS_DROP_UNSUPPORTED_L2);
	return pilus_drop(skb, packet, -PILUS_DROP_MISSED_TAIL_CALL);
}
