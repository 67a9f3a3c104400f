"""A file of YAML, taken apart into documents.

In: text that anybody may have written. Out: mappings, as Kubernetes objects are. Never: what they mean.

An alias stands for all that its anchor has: some lines of aliases of aliases are more values than there is memory, and one within
its own anchor has no end. So a document is weighed before anybody walks through it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
import yaml

from pilus_api.errors import InvalidError

_log = structlog.get_logger(__name__)

Raw = Mapping[str, Any]

HEAVIEST: Final = 200_000  # values of one document, aliases written out: an object of an API server has at most 1.5 MB


_DEEPEST: Final = 100
_LONGEST: Final = 100  # characters of a number: to read one costs the square of it


class _Loader(yaml.SafeLoader):
    """Without numbers and brackets that nobody means: the scanner's work is the square of how deep they are."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= _DEEPEST:
            raise yaml.scanner.ScannerError(None, None, f"more than {_DEEPEST} brackets within each other", self.get_mark())
        super().fetch_flow_collection_start(token)


def _number(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if len(str(node.value)) > _LONGEST:
        raise yaml.constructor.ConstructorError(None, None, f"a number of more than {_LONGEST} characters", node.start_mark)
    return yaml.SafeLoader.yaml_constructors[node.tag](loader, node)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Loader.add_constructor(_tag, _number)


def _weigh(held: Any, known: dict[int, int]) -> int:
    """How many values there are in it. Raises InvalidError for one without end, RecursionError for one too deep."""
    if not isinstance(held, dict | list):
        return 1
    weight = known.get(id(held))
    if weight is None:
        known[id(held)] = -1  # until it is known
        inner = held.values() if isinstance(held, dict) else held
        weight = known[id(held)] = 1 + sum(_weigh(one, known) for one in inner)
    if weight < 0:
        raise InvalidError("an alias within what it stands for")
    return weight


def _parsed(text: str) -> Any:
    held = yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
    if _weigh(held, {}) > HEAVIEST:
        raise InvalidError(f"more than {HEAVIEST} values, aliases written out")
    return held


def documents(path: Path, text: str) -> Iterator[Raw | None]:
    """Each document, or None for one that can't be parsed; a broken one does not take those beside it along."""
    for part in text.split("\n---"):
        try:
            held = _parsed(part.removeprefix("---"))
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
