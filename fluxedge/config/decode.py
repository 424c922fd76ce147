"""From a TOML table to a frozen struct, with every mistake in it, in plain words.

msgspec stops at the first mistake and speaks of types; a user wants all of them and wants to know what to write.
"""

from __future__ import annotations

import datetime
import functools
import math
import typing
from collections.abc import Callable

import msgspec
from msgspec import inspect

from fluxedge.config.mistakes import closest
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import ID_PATTERN, DriverCfg, Table
from fluxedge.config.toml_lines import Path

Note = Callable[[Path, str, str], None]  # key path below the item's table, message, hint
T = typing.TypeVar("T", bound=Table)

FAILED: typing.Final = object()  # a value that could not be used; why has been noted

_SET_BY_LOADER: dict[type, tuple[str, ...]] = {DriverCfg: ("id",)}
_HABITS = {  # what other gateways call it -> what it is called here
    "interval": "every", "period": "every", "poll": "every", "slave": "unit", "slave_id": "unit", "unit_id": "unit",
    "address": "at", "register": "at", "datatype": "type", "data_type": "type", "byte_order": "order",
    "writable": "write", "port": "url", "host": "url", "device": "driver",
}  # fmt: skip
_ID_RULE = "small letters, digits, _ and -"


def decode(
    cls: type[T], table: object, note: Note, types: dict[str, object] | None = None, path: Path = ()
) -> T | None:
    """Return the struct, or None after noting everything that is wrong with `table`.

    `types` replaces the types of some keys (a driver's options and points depend on its protocol).
    """
    values = fields_of(cls, table, note, types, path)
    if values is None:
        return None
    try:
        return cls(**values)
    except ValueError as exc:  # a rule across fields, see structs
        _note_rule(cls, str(exc), note, path)
        return None


def decode_rest(
    cls: type[T], table: object, types: dict[str, object] | None = None, instead: dict[str, object] | None = None
) -> T | None:
    """Return the struct without what is wrong in it, so that the rest can be checked too; None where that cannot be.

    `instead` stands for keys that are missing; its values must be right.
    """
    if not isinstance(table, dict):
        return None
    rest = (instead or {}) | table
    while True:
        bad: list[tuple[Path, str]] = []
        found = decode(cls, rest, _collecting(bad), types)
        if found is not None:
            return found
        less = rest
        for path, message in bad:
            for culprit in _culprits(path, message):
                less = _without(less, culprit)
        if less == rest:
            return None
        rest = (instead or {}) | less


def _collecting(found: list[tuple[Path, str]]) -> Note:
    return lambda path, message, hint: found.append((path, message))


def _culprits(path: Path, message: str) -> list[Path]:
    """Return the keys that a mistake is about: of "unit and units: give one of them" both."""
    names = message.partition(": ")[0].split(" and ")
    return [path, *((*path, name) for name in names if len(names) > 1)]


def _without(table: dict[str, typing.Any], path: Path) -> dict[str, typing.Any]:
    """Return the table without the key at `path`; of an array nothing is left."""
    if not path:
        return table
    inner = table.get(str(path[0]))
    if len(path) > 1 and isinstance(inner, dict):
        return table | {str(path[0]): _without(inner, path[1:])}
    return {key: value for key, value in table.items() if key != path[0]}


def fields_of(
    cls: type[Table], table: object, note: Note, types: dict[str, object] | None = None, path: Path = ()
) -> dict[str, typing.Any] | None:
    """Return the fields that `table` gives, by their Python names; None after noting mistakes."""
    if not isinstance(table, dict):
        note(path, f"{shown(table)} is not a table", "")
        return None
    known = _known_fields(cls)
    values: dict[str, typing.Any] = {}
    sound = True
    for key, value in table.items():
        if key not in known:
            note((*path, key), unknown_key(key, list(known)), "")
            sound = False
            continue
        kind = _type_info((types or {}).get(key, known[key].type))
        values[known[key].name] = found = _value(kind, value, (*path, key), note)
        sound = sound and found is not FAILED
    for key, field in known.items():
        if field.required and key not in table:
            note(path, f'"{key}" is missing', "")
            sound = False
    return values if sound else None


def unknown_key(key: str, known: list[str]) -> str:
    """Return the sentence for a key that does not exist."""
    meant = _HABITS.get(key, "") if _HABITS.get(key) in known else closest(key, known)
    if meant:
        return f'unknown key "{key}": did you mean "{meant}"?'
    return f'unknown key "{key}"; known are {", ".join(known)}'


def shown(value: object) -> str:
    """Return a value as TOML writes it, shortened."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}…"'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


@functools.cache
def _known_fields(cls: type[Table]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields that a file may give, by their TOML keys."""
    hidden = _SET_BY_LOADER.get(cls, ())
    return {field.encode_name: field for field in msgspec.structs.fields(cls) if field.encode_name not in hidden}


@functools.lru_cache(maxsize=512)
def _cached_info(kind: object) -> inspect.Type:
    return inspect.type_info(kind)


def _type_info(kind: object) -> inspect.Type:
    return kind if isinstance(kind, inspect.Type) else _cached_info(kind)


def _note_rule(cls: type[Table], text: str, note: Note, path: Path) -> None:
    """`text` is "KEY: what is wrong" or "KEY and KEY: what is wrong", or has no key."""
    keys = {field.encode_name for field in msgspec.structs.fields(cls)}
    head, colon, rest = text.partition(": ")
    if colon and head in keys:
        note((*path, head), rest, "")
    else:
        note(path, text, "")


def _value(kind: inspect.Type, value: object, path: Path, note: Note) -> object:
    match kind:
        case inspect.CustomType(cls=cls) if cls in (Seconds, Bytes):
            return _quantity(cls, value, path, note)
        case inspect.StructType(cls=cls):
            found = decode(typing.cast("type[Table]", cls), value, note, None, path)
            return FAILED if found is None else found
        case inspect.DictType():
            return _dict(kind, value, path, note)
        case inspect.ListType():
            return _list(kind, value, path, note)
        case inspect.UnionType():
            return _union(kind, value, path, note)
        case inspect.AnyType():
            return value
        case _:
            return _scalar(kind, value, path, note)


def _quantity(cls: type[Seconds] | type[Bytes], value: object, path: Path, note: Note) -> object:
    try:
        return cls.parse(value)
    except ValueError as exc:
        note(path, str(exc), "")
        return FAILED


def _dict(kind: inspect.DictType, value: object, path: Path, note: Note) -> object:
    if not isinstance(value, dict):
        note(path, f"{shown(value)} is not a table", "")
        return FAILED
    found = {}
    for key, inner in value.items():
        name = _value(kind.key_type, key, (*path, key), note)
        value_found = _value(kind.value_type, inner, (*path, key), note)
        found[key] = FAILED if name is FAILED else value_found
    return FAILED if any(inner is FAILED for inner in found.values()) else found


def _list(kind: inspect.ListType, value: object, path: Path, note: Note) -> object:
    if not isinstance(value, list):
        note(path, f"{shown(value)} is not {_wanted(kind)}", "")
        return FAILED
    found = [_value(kind.item_type, inner, (*path, i), note) for i, inner in enumerate(value)]
    return FAILED if any(inner is FAILED for inner in found) else found


def _union(kind: inspect.UnionType, value: object, path: Path, note: Note) -> object:
    members = [member for member in kind.types if not isinstance(member, inspect.NoneType)]
    if len(members) == 1:
        return _value(members[0], value, path, note)
    for member in members:
        found = _value(member, value, path, lambda *_: None)
        if found is not FAILED:
            return found
    alike = [member for member in members if isinstance(member, _SHAPES.get(type(value), ()))]
    if len(alike) == 1 and not isinstance(alike[0], inspect.LiteralType):
        return _value(alike[0], value, path, note)
    note(path, f"{shown(value)} is not {' or '.join(_wanted(member) for member in members)}", "")
    return FAILED


_SHAPES: dict[type, tuple[type[inspect.Type], ...]] = {
    dict: (inspect.DictType, inspect.StructType),
    list: (inspect.ListType,),
    str: (inspect.StrType, inspect.CustomType, inspect.LiteralType),
    int: (inspect.IntType, inspect.FloatType),
    float: (inspect.FloatType,),
}


def _scalar(kind: inspect.Type, value: object, path: Path, note: Note) -> object:
    message, hint = "", ""
    match kind:
        case inspect.LiteralType(values=values):
            if value not in values or type(value) is not type(values[0]):
                message = f"{shown(value)} is not {_wanted(kind)}"
                meant = closest(value, [v for v in values if isinstance(v, str)]) if isinstance(value, str) else ""
                message += f': did you mean "{meant}"?' if meant else ""
        case inspect.BoolType():
            if not isinstance(value, bool):
                message, hint = f"{shown(value)} is not {_wanted(kind)}", _quote_hint(kind, value)
        case inspect.IntType() | inspect.FloatType():
            message, hint = _judge_number(kind, value)
            if not message and isinstance(kind, inspect.FloatType):
                return float(typing.cast(float, value))
        case inspect.StrType():
            message, hint = _judge_text(kind, value)
        case _:
            raise TypeError(f"no words for {kind}")  # a struct of ours with a type this file does not know
    if message:
        note(path, message, hint)
        return FAILED
    return value


def _judge_number(kind: inspect.IntType | inspect.FloatType, value: object) -> tuple[str, str]:
    numbers = (int,) if isinstance(kind, inspect.IntType) else (int, float)
    if isinstance(value, bool) or not isinstance(value, numbers):
        return f"{shown(value)} is not {_wanted(kind)}", _quote_hint(kind, value)
    number = value
    usable = -(2**63) <= number < 2**63 if isinstance(number, int) else math.isfinite(number)  # TOML 1.0: 64 bits
    if not usable:
        return f"{shown(value)} is not a number that can be used", ""
    below = kind.ge is not None and number < kind.ge
    above = kind.le is not None and number > kind.le
    if below or above:
        if kind.ge is not None and kind.le is not None:
            return f"{number} is not in {kind.ge}..{kind.le}", ""
        return f"{number} is less than {kind.ge}" if below else f"{number} is more than {kind.le}", ""
    return "", ""


def _judge_text(kind: inspect.StrType, value: object) -> tuple[str, str]:
    if not isinstance(value, str):
        return f"{shown(value)} is not text", _quote_hint(kind, value)
    if kind.max_length is not None and len(value) > kind.max_length:
        return f"{shown(value)} is longer than {kind.max_length} characters", ""
    if kind.pattern == ID_PATTERN and not is_id(value):
        return f"{shown(value)} is not a name: use {_ID_RULE}", ""
    return "", ""


def is_id(text: str) -> bool:
    """Tell whether `text` can name a device, channel, driver, uplink, point or group."""
    return 1 <= len(text) <= 64 and all(sign in "abcdefghijklmnopqrstuvwxyz0123456789_-" for sign in text)


def id_mistake(text: str) -> str:
    """Return what is wrong with a name, or "" when nothing is."""
    if is_id(text):
        return ""
    return f"{shown(text)} is not a name: use {_ID_RULE}" + (", at most 64" if len(text) > 64 else "")


def _quote_hint(kind: inspect.Type, value: object) -> str:
    if isinstance(kind, inspect.StrType):
        return f'Write it in quotes: "{shown(value)}".' if not isinstance(value, dict | list) else ""
    if not isinstance(value, str):
        return ""
    if isinstance(kind, inspect.BoolType):
        return f"Write it without quotes: {value}." if value in ("true", "false") else ""
    try:
        int(value) if isinstance(kind, inspect.IntType) else float(value)
    except ValueError:
        return ""
    return f"Write it without quotes: {value}."


def _wanted(kind: inspect.Type) -> str:
    match kind:
        case inspect.LiteralType(values=values):
            names = [shown(value) for value in values]
            return f"one of {', '.join(names)}" if len(names) > 1 else names[0]
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number"
        case inspect.FloatType():
            return "a number"
        case inspect.StrType():
            return "text"
        case inspect.ListType():
            return f"an array of {_wanted(kind.item_type).removeprefix('a ').removeprefix('one of ')}"
        case inspect.CustomType(cls=cls):
            return "a duration" if cls is Seconds else "a size"
        case _:
            return "a table"
