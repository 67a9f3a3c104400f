/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is measured against: a program that does nothing, one that parses and looks up once in an LRU, one that redirects only. */
#include "../../../bpf/flow.h"

PILUS_PROGRAM(sched_cls, nothing)
{
	return PILUS_ACT_OK;
}

PILUS_PROGRAM(sched_cls, one_lookup)
{
	struct pilus_glance seen = { .key.zone = PILUS_ZONE_POD_OUT };

	if (pilus_glance_at(skb, &seen))
		return PILUS_ACT_SHOT;
	return embryonic.lookup(&seen.key) ? PILUS_ACT_OK : PILUS_ACT_SHOT;
}

/* Between two links whose numbers differ in the last bit alone. */
PILUS_PROGRAM(sched_cls, to_the_other)
{
	return bpf_redirect_peer(skb->ifindex ^ 1, 0);
}
