"""Where the process begins: everything is imported with the collector at rest, and then kept out of its sight.

An agent's restart waits for its imports: half a second, to which the collector adds a tenth, looking in vain at what never
goes. Frozen, these objects are not looked at again: a later collection of a running agent is as much shorter.
"""

import gc
import sys

gc.disable()
from pilus_agent.main import main  # noqa: E402

gc.freeze()
gc.enable()

# How long a thread that computes (the one that looks at links, once a second) may keep the loop from its next step: five
# milliseconds, as the interpreter has it, are half of what a policy may take until it is enforced.
sys.setswitchinterval(0.0005)

__all__ = ["main"]
