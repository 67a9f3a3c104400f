"""What every resource model is made of: one statement of a refusal, for the API server and for us.

In: raw JSON objects. Out: models, or InvalidError with the field's path. A model checks what its CustomResourceDefinition
checks: limits and patterns come from the fields, and each `refused_unless` holds a CEL expression beside the Python of the
same meaning, so that a directory of YAML is read as strictly as an API server reads it.
"""

from collections.abc import Callable, Mapping
from itertools import takewhile
from types import FunctionType
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from pilus_api.errors import InvalidError

VALIDATIONS = "x-kubernetes-validations"
PRESERVE = "x-kubernetes-preserve-unknown-fields"

Check = TypeVar("Check", bound=Callable[[Any], bool])
M = TypeVar("M", bound="Model")
S = TypeVar("S")

# Maps whose keys are anybody's. Without the key of a null, a selector would select more than its author wrote.
_FREE: Final = frozenset(("matchLabels",))


def refused_unless(cel: str, message: str, field: str = "") -> Callable[[Check], Check]:
    """Mark a method of a model as a refusal: the object is refused with `message` unless it returns true.

    `cel` says the same over `self`, where the model stands in the schema; "" where the model's `schema_extra` says it. `field`: the
    one that is wrong, as it is written; "" for the model as a whole.
    """

    def mark(check: Check) -> Check:
        check.__dict__["refusal"] = {"rule": cel, "message": message} | ({"fieldPath": f".{field}"} if field else {})
        return check

    return mark


class Refusal:
    """The same for one value: `Annotated[str, Refusal(cel, message, check)]`."""

    def __init__(self, cel: str, message: str, check: Callable[[Any], bool]) -> None:
        self._rule = {"rule": cel, "message": message}
        self._check = check

    def _checked(self, value: S) -> S:
        if not self._check(value):
            raise ValueError(self._rule["message"])
        return value

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        held = handler(schema)
        held.setdefault(VALIDATIONS, []).append(dict(self._rule))
        return held


class Model(BaseModel):
    """A part of an object whose fields are all known: an unknown one is refused, for a mistyped restriction must not vanish."""

    # Built when an object of the kind is read first: most processes read few kinds, and an agent's restart waits for its imports.
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, defer_build=True
    )

    # What the schema says beside the fields, such as an anyOf of value validations.
    schema_extra: ClassVar[Mapping[str, Any]] = {}

    # Every check that is marked in the class or above it, by name.
    _refusals: ClassVar[tuple[Callable[[Any], bool], ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        # Of functions alone: what stands for a validator that is not built yet is built by a look at its attributes.
        held = ((name, value) for base in cls.__mro__ for name, value in vars(base).items() if isinstance(value, FunctionType))
        names = {name for name, function in held if hasattr(function, "refusal")}
        cls._refusals = tuple(getattr(cls, name) for name in sorted(names))

    @model_validator(mode="after")
    def _refuse(self) -> "Model":
        for check in self._refusals:
            if not check(self):
                said = check.__dict__["refusal"]
                raise PydanticCustomError("refusal", "{message}", {"message": said["message"], "field": said.get("fieldPath", "")})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        held = handler.resolve_ref_schema(handler(schema))
        rules = [dict(check.__dict__["refusal"]) for check in cls._refusals]
        rules = [rule for rule in rules if rule["rule"]]
        if rules:
            held[VALIDATIONS] = rules
        held.update(cls.schema_extra)
        return held


class Open(Model):
    """A part of an object that others may write more into than we know; what is unknown is kept."""

    model_config = ConfigDict(extra="allow")
    schema_extra: ClassVar[Mapping[str, Any]] = {PRESERVE: True}


class Metadata(Open):
    """The part of ObjectMeta that we read. The API server checks it."""

    schema_extra: ClassVar[Mapping[str, Any]] = {}

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Resource(Open):
    """An object: what stands beside `spec` and is unknown is none of our business."""

    schema_extra: ClassVar[Mapping[str, Any]] = {}

    api_version: str
    kind: str
    metadata: Metadata


def without_nulls(value: Any) -> Any:
    """A copy in which null fields are absent, as the API server has it where null is not a value of its own. What a null in
    `matchLabels` means, the model says.
    """
    if isinstance(value, dict):
        return {
            key: dict(held) if key in _FREE and isinstance(held, dict) else without_nulls(held)
            for key, held in value.items()
            if held is not None
        }
    if isinstance(value, list):
        return [without_nulls(held) for held in value]
    return value


def _path(obj: Mapping[str, Any], error: ErrorDetails) -> str:
    """Of the field that is wrong. What pydantic names beside it is no field: a union's branch, or that a key is meant."""
    path, steps = "", error["loc"]
    held: Any = obj
    for step in steps:
        if isinstance(held, list | tuple) and isinstance(step, int) and step < len(held):
            path, held = f"{path}[{step}]", held[step]
        elif isinstance(held, Mapping) and step in held:
            path, held = f"{path}.{step}" if path else str(step), held[step]
    if error["type"] == "missing":
        path = f"{path}.{steps[-1]}" if path else str(steps[-1])
    return path + str(error.get("ctx", {}).get("field", ""))


def parse(model: type[M], obj: Mapping[str, Any]) -> M:
    """The object as `model`. Raises InvalidError with the path of the first field that is wrong."""
    held = without_nulls(obj)
    try:
        # By the names of the API alone: our own for a field (`pod_selector`) are as unknown to it as any.
        return model.model_validate(held, by_alias=True, by_name=False)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        path = _path(held, errors[0])
        # Of a union each branch says what is wrong: that a number is no text says least.
        branches = takewhile(lambda one: _path(held, one) == path, errors)
        said = next((one["msg"] for one in branches if not one["type"].endswith("_type")), errors[0]["msg"])
        raise InvalidError(said.removeprefix("Value error, "), path) from error
