"""JSON Schema of every file, for editors and for checks that are not ours.

Made from the structs: types and limits from the annotations, descriptions from the docstrings and the comments behind
the fields, so that there is one place where an option is explained. Rules across fields are only known to the loader.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import tokenize
import typing

import msgspec
from msgspec import inspect as types

from fluxedge.config import structs
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import OPTIONS, POINTS, DriverCfg, Id, Table

Schema = dict[str, typing.Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_QUANTITIES: dict[type, Schema] = {
    Seconds: {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|min|h|d)$", "examples": ["250ms", "1s", "24h"]},
    Bytes: {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(B|kB|KiB|MB|MiB|GB|GiB|TB|TiB)$", "examples": ["8MiB"]},
}


def all_schemas() -> dict[str, Schema]:
    """Return name -> schema: "fluxedge", "devices", and "driver-PROTOCOL" for each protocol."""
    schemas = {"fluxedge": _main_schema(), "devices": _devices_schema()}
    return schemas | {f"driver-{protocol}": driver_schema(protocol) for protocol in POINTS}


def driver_schema(protocol: str) -> Schema:
    """Return the schema of driver files of one protocol."""
    defs: dict[str, Schema] = {}
    given = {"options": OPTIONS[protocol], "points": dict[Id, POINTS[protocol]]}  # type: ignore[valid-type]
    body = _struct(DriverCfg, defs, given)
    del body["properties"]["id"]
    body["properties"]["protocol"] = {"const": protocol}
    body["properties"]["points"] |= {"minProperties": 1, "description": f"points, as the protocol {protocol} has them"}
    body["properties"]["options"]["description"] = f"what the protocol {protocol} should know about the product"
    body["required"].append("points")
    return _document(f"fluxedge driver file, protocol {protocol}", body, defs)


def option_notes(cls: type[Table]) -> dict[str, str]:
    """Return TOML key -> what the comment behind the field says, for every key that has one."""
    notes: dict[str, str] = {}
    for field in msgspec.structs.fields(cls):
        for owner in cls.__mro__:
            text = _comments().get((owner.__name__, field.name))
            if text:
                notes.setdefault(field.encode_name, text)
    return notes


def _main_schema() -> Schema:
    defs: dict[str, Schema] = {}
    properties = {
        "gateway": _ref(structs.GatewayCfg, defs),
        "log": _ref(structs.LogCfg, defs),
        "api": _ref(structs.ApiCfg, defs),
        "uplinks": _map_of(_ref(structs.UplinkCfg, defs)),
    }
    body = {"type": "object", "properties": properties, "additionalProperties": False}
    return _document("fluxedge.toml", body, defs)


def _devices_schema() -> Schema:
    defs: dict[str, Schema] = {}
    properties = {
        "channels": _map_of(_ref(structs.ChannelCfg, defs)),
        "devices": _map_of(_ref(structs.DeviceCfg, defs)),
    }
    body = {"type": "object", "properties": properties, "additionalProperties": False}
    return _document("fluxedge devices/*.toml", body, defs)


def _document(title: str, body: Schema, defs: dict[str, Schema]) -> Schema:
    return {"$schema": _DIALECT, **body, "title": title, "$defs": dict(sorted(defs.items()))}


def _map_of(inner: Schema) -> Schema:
    return {"type": "object", "propertyNames": _schema(types.type_info(Id), {}), "additionalProperties": inner}


def _ref(cls: type[Table], defs: dict[str, Schema]) -> Schema:
    name = cls.__name__.removesuffix("Cfg")
    if name not in defs:
        defs[name] = {}  # holds the place while the struct is walked
        defs[name] = _struct(cls, defs)
    return {"$ref": f"#/$defs/{name}"}


def _struct(cls: type[Table], defs: dict[str, Schema], given: dict[str, object] | None = None) -> Schema:
    notes = option_notes(cls)
    properties: dict[str, Schema] = {}
    for field in msgspec.structs.fields(cls):
        inner = _schema(types.type_info((given or {}).get(field.encode_name, field.type)), defs)
        if field.encode_name in notes:
            inner["description"] = notes[field.encode_name]
        default = _default(field)
        if default is not None:
            inner["default"] = default
        properties[field.encode_name] = inner
    return {
        "description": inspect.getdoc(cls) or "",
        "type": "object",
        "properties": properties,
        "required": [field.encode_name for field in msgspec.structs.fields(cls) if field.required],
        "additionalProperties": False,
    }


def _default(field: msgspec.structs.FieldInfo) -> object:
    """Return the default as TOML has it; None where there is none, or an empty table."""
    value = field.default
    if value is msgspec.NODEFAULT:
        value = None if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, Seconds | Bytes):
        return str(value)
    return value if isinstance(value, bool | int | float | str | list) else None


def _schema(kind: types.Type, defs: dict[str, Schema]) -> Schema:
    match kind:
        case types.CustomType(cls=cls):
            return dict(_QUANTITIES[cls])
        case types.StructType(cls=cls):
            return _ref(typing.cast("type[Table]", cls), defs)
        case types.DictType(key_type=key_type, value_type=value_type):
            names = _schema(key_type, defs)
            schema: Schema = {"type": "object", "additionalProperties": _schema(value_type, defs)}
            return schema if names == {"type": "string"} else schema | {"propertyNames": names}
        case types.ListType(item_type=item_type):
            return {"type": "array", "items": _schema(item_type, defs)}
        case types.UnionType(types=members):
            kinds = [_schema(member, defs) for member in members if not isinstance(member, types.NoneType)]
            return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        case types.LiteralType(values=values):
            return {"enum": list(values)}
        case types.AnyType():
            return {}
        case _:
            return _scalar(kind)


def _scalar(kind: types.Type) -> Schema:
    match kind:
        case types.BoolType():
            return {"type": "boolean"}
        case types.IntType(ge=ge, le=le):
            return {"type": "integer"} | _limits(minimum=ge, maximum=le)
        case types.FloatType(ge=ge, le=le):
            return {"type": "number"} | _limits(minimum=ge, maximum=le)
        case types.StrType(pattern=pattern, max_length=longest):
            return {"type": "string"} | _limits(pattern=pattern, maxLength=longest)
        case _:
            raise TypeError(f"no schema for {kind}")  # a struct of ours with a type this file does not know


def _limits(**limits: object) -> Schema:
    return {name: limit for name, limit in limits.items() if limit is not None}


@functools.cache
def _comments() -> dict[tuple[str, str], str]:
    """Return (class, field) -> the comment behind the field; nothing where there is no source to read."""
    try:
        source = inspect.getsource(structs)
    except OSError:
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    return {
        (node.name, field.target.id): by_line[field.end_lineno]
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.end_lineno in by_line
    }
