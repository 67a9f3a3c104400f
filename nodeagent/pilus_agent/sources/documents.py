"""A file of YAML, taken apart into documents.

In: text that anybody may have written. Out: mappings, as Kubernetes objects are. Never: what they mean.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import yaml

from pilus_api.errors import InvalidError
from pilus_api.yaml_text import parsed

_log = structlog.get_logger(__name__)

Raw = Mapping[str, Any]


def documents(path: Path, text: str) -> Iterator[Raw | None]:
    """Each document, or None for one that can't be parsed; a broken one does not take those beside it along."""
    for part in text.split("\n---"):
        try:
            held = parsed(part.removeprefix("---"))
        except (yaml.YAMLError, ValueError, InvalidError, RecursionError) as error:
            _log.warning("a YAML document is broken, left out", path=str(path), error=str(error).replace("\n", " ")[:300])
            yield None
            continue
        if held is None:
            continue
        items = held.get("items") if isinstance(held, dict) and held.get("kind") == "List" else [held]
        for item in items if isinstance(items, list) else ():
            if not isinstance(item, dict):
                _log.warning("a document is no object, left out", path=str(path))
            yield item if isinstance(item, dict) else None
