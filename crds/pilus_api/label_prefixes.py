"""The file that the setting `label-prefix-file` names, as Cilium's users have it: which labels make an identity, in place of the
entries that are built in.

In: settings, and JSON: `{"version": 1, "valid-prefixes": [{"source": "k8s", "prefix": "app", "invert": false}, ...]}`. Out: the
filter of pods' labels. It is read once, when a process starts. Whatever is wrong with it ends the process then: identities must not
become others in silence.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from pilus_api.decode import decode
from pilus_api.errors import InvalidError
from pilus_api.label_filters import IdentityFilter, LabelPrefix, label_prefix
from pilus_api.labels import SOURCE_RESERVED
from pilus_api.resources.model import Model, parse
from pilus_api.settings import Settings

_SETTING: Final = "label-prefix-file"
# Without these labels no node, no API server and nothing outside would be what policies call it.
_RESERVED: Final = (SOURCE_RESERVED, ".*")


class _Prefix(Model):
    """`prefix`: a regular expression for the beginning of a key. `invert`: such labels don't count."""

    source: Annotated[str, Field(min_length=1)]
    prefix: Annotated[str, Field(min_length=1)]
    invert: bool = False


class _File(Model):
    version: Literal[1]
    valid_prefixes: Annotated[Sequence[_Prefix], Field(alias="valid-prefixes")]


def identity_filter(settings: Settings) -> IdentityFilter:
    """Which labels make a pod's identity. Reads the file, if the settings name one. Raises InvalidError."""
    named = settings.label_prefix_file
    return IdentityFilter(settings.labels, _read(Path(named)) if named else None)


def _read(path: Path) -> list[LabelPrefix]:
    try:
        return list(_prefixes(path.read_bytes()))
    except (OSError, ValueError, InvalidError) as error:
        raise InvalidError(f"{path}: {error}", _SETTING) from error


def _prefixes(text: bytes) -> Iterable[LabelPrefix]:
    held = decode(text)
    if not isinstance(held, dict):
        raise InvalidError("it is no JSON object")
    entries = parse(_File, held).valid_prefixes
    if not any((one.source, one.prefix) == _RESERVED and not one.invert for one in entries):
        raise InvalidError("it does not include reserved:.* (source reserved, prefix .*)")
    return (label_prefix(one.source, one.prefix, "", ignore=one.invert) for one in entries)
