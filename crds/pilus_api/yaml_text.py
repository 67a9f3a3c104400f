"""YAML that anybody may have written, as values, and where in the text each of them stands.

In: text. Out: values, or what is wrong with the text and where. Never: what the values mean.

An alias stands for all that its anchor has: some lines of aliases of aliases are more values than there is memory, and one within
its own anchor has no end. So a document is weighed before anybody walks through it. What is too long to be an object is not even
parsed: a megabyte takes five seconds and 110 MB. libyaml would be five times as fast, and crashes where brackets are nested deep.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from pilus_api.errors import InvalidError

LONGEST: Final = 3 << 19  # characters of one document: an API server's store takes no object of more than 1.5 MiB
LONGEST_LIST: Final = 2 * LONGEST  # a List is many objects
HEAVIEST: Final = 200_000  # values of one document, aliases written out
_DEEPEST: Final = 100
_LONGEST_NUMBER: Final = 100  # characters: to read one costs the square of it
_MERGE: Final = "tag:yaml.org,2002:merge"
_LIST: Final = re.compile(r'^(?:kind:|[ \t]*"kind":)[ \t]*"?List"?[ \t]*,?[ \t]*$', re.MULTILINE)
_INDEX: Final = re.compile(r"\[(\d+)\]\.?")


class _Loader(yaml.SafeLoader):
    """Without numbers and brackets that nobody means: the scanner's work is the square of how deep they are."""

    merged = 0  # keys that have come out of other mappings

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= _DEEPEST:
            raise yaml.scanner.ScannerError(None, None, f"more than {_DEEPEST} brackets within each other", self.get_mark())
        super().fetch_flow_collection_start(token)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """A merge (`<<: [*a, *a]`) writes its mappings out, each time anew: counted before it does."""
        for key, value in node.value:
            if key.tag == _MERGE:
                for one in value.value if isinstance(value, yaml.SequenceNode) else (value,):
                    if isinstance(one, yaml.MappingNode):
                        self.flatten_mapping(one)
                        self.merged += len(one.value)
                    if self.merged > HEAVIEST:
                        raise yaml.constructor.ConstructorError(None, None, f"more than {HEAVIEST} keys merged", key.start_mark)
        super().flatten_mapping(node)


def _number(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if len(str(node.value)) > _LONGEST_NUMBER:
        raise yaml.constructor.ConstructorError(None, None, f"a number of more than {_LONGEST_NUMBER} characters", node.start_mark)
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


def _measured(text: str) -> str:
    """Raises InvalidError for what is too long to be an object, before anybody has looked at it."""
    if len(text) > LONGEST_LIST or (len(text) > LONGEST and _LIST.search(text) is None):
        most = f"{LONGEST}, or {LONGEST_LIST} of a List"
        raise InvalidError(f"a document of {len(text)} characters: no API server holds an object of more than {most}")
    return text


def _weighed(held: Any) -> Any:
    if _weigh(held, {}) > HEAVIEST:
        raise InvalidError(f"more than {HEAVIEST} values, aliases written out")
    return held


def parsed(text: str) -> Any:
    """One document's value. Raises yaml.YAMLError, ValueError, RecursionError, and InvalidError for one that is too much."""
    return _weighed(yaml.load(_measured(text), _Loader))  # noqa: S506  # a SafeLoader


@dataclass(frozen=True, slots=True)
class Position:
    """From 1 on, as editors count."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """A value, and the nodes it was made of; `first`: how many lines of the text are before it."""

    value: Any
    node: yaml.Node
    first: int

    def position(self, path: str) -> Position:
        """Of the field that a dotted path names; of the last one on the way to it that is there."""
        node, mark, rest = self.node, self.node.start_mark, path.partition(" ")[0]
        while rest and (found := _inner(node, rest)) is not None:
            mark, node, rest = found
        return self._position(mark)

    def repeated(self) -> Iterator[tuple[str, Position]]:
        """Keys that stand in one mapping more than once: all but the last of them are lost without a word."""
        waiting, seen = [self.node], set()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                waiting += node.value
            elif isinstance(node, yaml.MappingNode):
                keys: set[str] = set()
                for key, value in node.value:
                    waiting.append(value)
                    if isinstance(key, yaml.ScalarNode) and key.value in keys:
                        yield str(key.value), self._position(key.start_mark)
                    keys.add(str(key.value))

    def _position(self, mark: yaml.Mark) -> Position:
        return Position(self.first + mark.line + 1, mark.column + 1)


def _inner(node: yaml.Node, path: str) -> tuple[yaml.Mark, yaml.Node, str] | None:
    """Where the path's first step leads, and the steps behind it. A key may have dots itself (`pilus.io/mode`)."""
    if isinstance(node, yaml.SequenceNode):
        step = _INDEX.match(path)
        if step is None or int(step[1]) >= len(node.value):
            return None
        inner = node.value[int(step[1])]
        return inner.start_mark, inner, path[step.end() :]
    fitting = [
        (key, value)
        for key, value in (node.value if isinstance(node, yaml.MappingNode) else ())
        if isinstance(key, yaml.ScalarNode) and (path == key.value or path.startswith((f"{key.value}.", f"{key.value}[")))
    ]
    if not fitting:
        return None
    key, value = max(fitting, key=lambda pair: len(pair[0].value))
    return key.start_mark, value, path[len(key.value) :].removeprefix(".")


@dataclass(frozen=True, slots=True)
class BrokenYaml:
    """A document that is none."""

    message: str
    position: Position


def located(text: str) -> Iterator[Document | BrokenYaml]:
    """Every document that is not empty; a broken one does not take those behind it along."""
    first = 0
    for part in text.split("\n---"):
        # What is left of the separator's own line, a comment at most, stays on its line.
        held = part.removeprefix("---") if first == 0 else part
        try:
            loader = _Loader(_measured(held))
            node = loader.get_single_node()
            if node is not None:
                yield Document(_weighed(loader.construct_document(node)), node, first)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Position(first + mark.line + 1, mark.column + 1) if mark else Position(first + 1, 1)
            yield BrokenYaml(str(error.problem or error.context or "no YAML"), place)
        except (yaml.YAMLError, ValueError, InvalidError, RecursionError) as error:
            yield BrokenYaml(str(error).splitlines()[0] if str(error) else "nested too deep", Position(first + 1, 1))
        first += part.count("\n") + 1
