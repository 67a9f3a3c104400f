"""What a policy's condition `Valid` rests on.

In: a policy, as it stands in the API server. Out: nothing, or InvalidError. The API
server has refused most of what means nothing; what is found here is what a schema can't say, and what was stored before it said so.
"""

from pilus_api.connection import Object
from pilus_api.policies import drafts_of


def check_policy(raw: Object, cluster: str) -> None:
    """Raises InvalidError, which names the field."""
    # The status is ours, whatever an earlier version wrote into it.
    drafts_of({name: held for name, held in raw.items() if name != "status"}, cluster=cluster)
