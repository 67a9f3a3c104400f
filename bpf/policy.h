/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Policy: two questions, one answer. Who is the peer (peers), and, where the policy has address rules, where is it (cidrs)?
 * Each leads to a port table, whose longest match is complete: deny is already resolved in it.
 */
#pragma once
#include "verdict.h"

struct pilus_answer {
	u32 decision;
	u32 precedence;
	u32 rule;
};

/* Of the admin tier, and of those below it. */
struct pilus_answers {
	struct pilus_answer above;
	struct pilus_answer below;
};

/* Of two answers the higher precedence holds; among equals a denial. */
pilus_always void pilus_weigh(struct pilus_answer *answer, u32 decision, u32 precedence, u32 rule)
{
	if (precedence < answer->precedence)
		return;
	if (precedence == answer->precedence && answer->rule && answer->decision == PILUS_DECISION_DENY)
		return;
	answer->decision = decision;
	answer->precedence = precedence;
	answer->rule = rule;
}

/* What one port table says. No row is "no rule matches": deny, with the lowest precedence. */
pilus_always void pilus_ask(u32 table, const struct pilus_packet *packet, struct pilus_answers *answers)
{
	struct pilus_verdict_key key = { .length = 64, .table = table, .protocol = packet->protocol };
	struct pilus_verdict *verdict;

	if (packet->protocol == PILUS_IPPROTO_ICMP || packet->protocol == PILUS_IPPROTO_ICMPV6)
		key.port = bpf_htons(packet->icmp_type);
	else
		key.port = packet->destination_port;
	verdict = verdicts.lookup(&key);
	if (!verdict)
		return;
	pilus_weigh(&answers->below, verdict->decision, verdict->precedence, verdict->rule);
	if (verdict->above_precedence)
		pilus_weigh(&answers->above, verdict->above, verdict->above_precedence, verdict->above_rule);
}

/* What this policy says of the packet in this direction: 0, or a reason. `outside` says that the peer's address is of no pod and no
 * node, or of a node that counts as outside. An error on the way, and a policy that is not there whole, deny. */
pilus_always int pilus_evaluate(struct pilus_packet *packet, u32 number, u32 direction, u32 peer, const struct pilus_address *address,
				bool outside)
{
	struct pilus_answers answers = {};
	struct pilus_answer answer;
	struct pilus_peer_key who = {};
	struct pilus_policy *policy;
	struct pilus_class *class;

	packet->direction = direction;
	packet->rule = 0;
	/* Behind this gate a miss in peers means the default class; in front of it, that nobody has compiled the identity yet. */
	if (!identities.lookup(&peer))
		return -PILUS_DROP_UNKNOWN_IDENTITY;
	policy = policies.lookup(&number);
	if (!policy || !policy->complete)
		return -PILUS_DROP_ENDPOINT_NOT_READY;
	who.policy = number;
	who.direction = direction;
	who.identity = peer;
	class = peers.lookup(&who);
	pilus_ask(class ? class->table : policy->table[direction & 1], packet, &answers);
	if (policy->cidrs[direction & 1]) {
		struct pilus_cidr_key where = { .policy = number, .direction = direction, .address = *address };

		where.family = packet->family;
		where.scope = outside ? PILUS_CIDR_SCOPE_OUTSIDE : PILUS_CIDR_SCOPE_ANY;
		where.length = 64 + (packet->family == PILUS_FAMILY_IPV4 ? 32 : 128);
		class = cidrs.lookup(&where);
		if (class)
			pilus_ask(class->table, packet, &answers);
	}
	answer = answers.below;
	if (answers.above.precedence && answers.above.decision != PILUS_DECISION_PASS)
		answer = answers.above;
	packet->rule = answer.rule;
	packet->policy = number;
	if (answer.decision == PILUS_DECISION_ALLOW)
		return 0;
	return answer.rule ? -PILUS_DROP_POLICY_DENY : -PILUS_DROP_POLICY;
}

/* May this packet pass the endpoint's policy in this direction? 0, or a reason. */
pilus_always int pilus_judge(struct pilus_packet *packet, const struct pilus_endpoint *endpoint, u32 direction, u32 peer,
			     const struct pilus_address *address, bool outside)
{
	u32 enforced = direction == PILUS_DIRECTION_INGRESS ? PILUS_ENDPOINT_INGRESS_ENFORCED : PILUS_ENDPOINT_EGRESS_ENFORCED;
	int result = 0;

	if (endpoint->flags & enforced)
		result = pilus_evaluate(packet, endpoint->policy, direction, peer, address, outside);
	if (!result && endpoint->audit)
		packet->audit |= 1 << direction | (outside ? PILUS_AUDIT_OUTSIDE : 0);
	return result;
}

/* A packet that passes: would it, if policies in audit mode were enforced? If not, the event says which rule would refuse it. */
pilus_always void pilus_audit(struct __sk_buff *skb, struct pilus_packet *packet, const struct pilus_endpoint *endpoint, u32 direction,
			      u32 peer, const struct pilus_address *address, bool outside)
{
	struct pilus_policy *held = policies.lookup(&endpoint->audit);
	u32 rule = packet->rule, policy = packet->policy;
	u8 decided = packet->direction;
	int result;

	if (held && !(held->closes & 1 << direction))
		return;
	result = pilus_evaluate(packet, endpoint->audit, direction, peer, address, outside);
	if (result && result != -PILUS_DROP_ENDPOINT_NOT_READY) {
		if (!(packet->audit & PILUS_AUDIT_KNOWN))
			pilus_count(skb, packet->hook, PILUS_COUNT_AUDITED);
		packet->audit |= PILUS_AUDIT_REFUSED;
		packet->policy = endpoint->audit;
		return;
	}
	packet->rule = rule;
	packet->policy = policy;
	packet->direction = decided;
}
