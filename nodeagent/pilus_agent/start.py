"""Where the process begins: everything is imported with the collector at rest, and then kept out of its sight.

An agent's restart waits for its imports: half a second, to which the collector adds a tenth, looking in vain at what never
goes. Frozen, these objects are not looked at again: a later collection of a running agent is as much shorter.
"""

import gc

gc.disable()
from pilus_agent.main import main  # noqa: E402

gc.freeze()
gc.enable()

__all__ = ["main"]
