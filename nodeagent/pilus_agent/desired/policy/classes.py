"""Classes: identities parted by which rules select them.

In: for every selector its rules and its members, as bit sets. Out: for every member that is selected at all, its rules. Never:
what the rules say.
"""

from collections.abc import Iterable

from pilus_agent.desired.selectors import bits_of


def partition(selected: Iterable[tuple[int, int]]) -> dict[int, int]:
    """(rules, members) pairs to member -> rules. Two members are in one class when their rules are the same.

    Broad sets part blocks of members by one AND a block; sparse ones are walked member by member. Which way is cheaper
    depends on how many blocks there are, so the broad ones come first, while there are few.
    """
    merged: dict[int, int] = {}
    for rules, members in selected:
        if members:
            merged[members] = merged.get(members, 0) | rules
    blocks: dict[int, int] = {}
    known = 0
    found: dict[int, int] = {}
    for members, rules in sorted(merged.items(), key=lambda item: -item[0].bit_count()):
        if members.bit_count() < len(blocks):
            for member in bits_of(members):
                found[member] = found.get(member, 0) | rules
            continue
        # One rule may have several selectors, so two blocks may come to have the same rules, and are one then.
        parted: dict[int, int] = {}
        for block_rules, block in blocks.items():
            if inside := block & members:
                parted[block_rules | rules] = parted.get(block_rules | rules, 0) | inside
            if outside := block & ~members:
                parted[block_rules] = parted.get(block_rules, 0) | outside
        if fresh := members & ~known:
            parted[rules] = parted.get(rules, 0) | fresh
        known |= members
        blocks = parted
    for rules, block in blocks.items():
        for member in bits_of(block):
            found[member] = found.get(member, 0) | rules
    return found
