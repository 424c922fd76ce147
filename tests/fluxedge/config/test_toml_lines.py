from __future__ import annotations

import time
import tomllib
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxedge.config.toml_lines import Path, TomlMistake, locate, parse


def paths_of(value: typing.Any, path: Path = ()) -> set[Path]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= paths_of(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            found |= paths_of(inner, (*path, i))
    return found


SAMPLE = '''\
# a comment with [brackets] and "quotes
title = "a # b"
dotted.key.one = 1
dotted.key."two three" = 2
text = """
first = 1
[not.a.table]
"""
after = 'x'

[devices.m1]  # comment
unit = 1
points = { a = { low = 1, "b c".d = [1, 2] }, e = "}" }
numbers = [
  1,  # one ]
  [2, 3],
  { x = 4 },
]

[[vectors]]
name = "a"
[vectors.expect]
v = 1979-05-27 07:32:00
[[vectors]]
name = """b\\""""
[vectors.expect]
w = 2
[devices]
late = true
'''


def test_every_kind_of_key_has_its_line() -> None:
    lines = locate(SAMPLE)
    assert set(lines) == paths_of(tomllib.loads(SAMPLE))
    expected: dict[Path, int] = {
        ("title",): 2,
        ("dotted",): 3,
        ("dotted", "key", "two three"): 4,
        ("text",): 5,
        ("after",): 9,
        ("devices", "m1"): 11,
        ("devices", "m1", "unit"): 12,
        ("devices", "m1", "points", "a", "b c", "d", 1): 13,
        ("devices", "m1", "points", "e"): 13,
        ("devices", "m1", "numbers"): 14,
        ("devices", "m1", "numbers", 1, 0): 16,
        ("devices", "m1", "numbers", 2, "x"): 17,
        ("vectors", 0, "expect", "v"): 23,
        ("vectors", 1): 24,
        ("vectors", 1, "expect", "w"): 27,
        ("devices",): 28,
        ("devices", "late"): 29,
    }
    assert {path: lines[path] for path in expected} == expected


def test_windows_line_ends_count_once() -> None:
    assert locate(SAMPLE.replace("\n", "\r\n")) == locate(SAMPLE)


KEYS = st.one_of(
    st.sampled_from(["a", "b", "c-1", "7", '"q.r"', "'s]'", '"\\u0041x"', '""']),
    st.text("abc", min_size=1, max_size=2),
)
SCALARS = st.sampled_from(
    [
        "1", "-0x1f", "1.5e3", "true", "inf", "1979-05-27 07:32:00", "07:32:00", '"#]}"', "'\"'", '""', "''",
        '"""\n[x]\na = 1\n"""', "'''\n]'\n'''", '"""a\\"""""', '"""x"""""', "'''y'''''", '"\\\\"', '"""\\\n  z"""',
    ]
)  # fmt: skip
GAPS = st.sampled_from(["", " ", "\n", " # c ]}\n", "\n\n\t"])


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(GAPS, inner, GAPS), max_size=3).map(
        lambda items: "[" + ",".join(a + text + b for a, text, b in items) + "\n]"
    )


def inline_tables(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(KEYS, inner), max_size=3).map(
        lambda items: "{ " + ", ".join(f"{key} = {text}" for key, text in items) + " }"
    )


VALUES = st.recursive(SCALARS, lambda inner: st.one_of(arrays(inner), inline_tables(inner)), max_leaves=6)
DOTTED = st.lists(KEYS, min_size=1, max_size=3).map(" . ".join)
LINES = st.one_of(
    st.tuples(DOTTED, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    DOTTED.map(lambda key: f"[ {key} ] # c"),
    DOTTED.map(lambda key: f"[[{key}]]"),
    st.sampled_from(["", "# [x]", "\t"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(LINES, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_the_paths_are_those_of_tomllib(lines: list[str], end: str) -> None:
    document: list[str] = []
    for line in lines:  # keep what makes a valid document, so that most examples are long
        text = "\n".join([*document, line])
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
        document.append(line)
    text = "\n".join(document).replace("\n", end)
    found = locate(text)
    assert set(found) == paths_of(tomllib.loads(text))
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(KEYS.filter(str.isalnum), VALUES), max_size=6, unique_by=lambda pair: pair[0]))
def test_a_key_is_on_the_line_that_begins_with_it(pairs: list[tuple[str, str]]) -> None:
    document: list[tuple[str, int]] = []
    text = ""
    for key, value in pairs:
        more = f"{text}{key} = {value}\n"
        try:
            tomllib.loads(more)
        except tomllib.TOMLDecodeError:
            continue
        document.append((key, text.count("\n") + 1))
        text = more
    found = locate(text)
    assert [(key, found[(key,)]) for key, _ in document] == document


@settings(max_examples=300, deadline=None)
@given(st.text("ab=.[]{}\"'#\n\\,1 ", max_size=40))
def test_any_text_is_parsed_or_refused_with_a_line_inside_it(text: str) -> None:
    mistake = TomlMistake(1, "none")
    try:
        parse(text)
    except TomlMistake as raised:
        mistake = raised
    assert 1 <= mistake.line <= text.count("\n") + 1
    assert mistake.message
    locate(text)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a = 1\nb = 2\na = 3\nc = 4\n", 3, "key a is given twice; first in line 1"),
        ("[t]\nx = 1\nt = 0\nx = 2\n", 4, "key t.x is given twice; first in line 2"),
        ("[a]\n[b]\n[a]\n", 3, "table a is given twice; first in line 1"),
        ("a = { x = 1, x = 2 }", 1, "key a.x is given twice; first in line 1"),
        ('\na = "open\nb = 1\n', 2, "the text that begins here has no closing quote"),
        ('a = """open\nb = 1\n\n', 1, "the text that begins here has no closing quote"),
        ("a = 0\nb = [1,\n2\n", 2, "the array that begins here has no closing bracket"),
        ("a = { b = 1,\nc = 2 }", 1, "a table in braces ends on the line where it begins"),
        ("a = 1\nb = meter\n", 2, "invalid value (column 5)"),
        ("a = 1s\n", 1, "expected newline or end of document after a statement (column 6)"),
        ("a 1\n", 1, "expected '=' after a key in a key/value pair (column 3)"),
        ("x = " + "[" * 5000, 1, "arrays or tables are nested too deeply"),
        ("x = " + "1" * 5000, 1, "a value cannot be read"),
    ],
)
def test_mistakes_in_the_syntax_have_the_line_of_their_cause(text: str, line: int, message: str) -> None:
    with pytest.raises(TomlMistake) as caught:
        parse(text)
    assert (caught.value.line, caught.value.message[: len(message)]) == (line, message)


HOSTILE = {
    "a key of 200,000 parts": ("x = 1\n" + ".".join(["a"] * 200_000) + " = 1", 2, "a key has more than 32 parts"),
    "a header of 50,000 parts": ("[" + " . ".join(['"a.b"'] * 50_000) + "]", 1, "a key has more than 32 parts"),
    "brackets in brackets": ("\n\nx = " + "[" * 100_000, 3, "arrays or tables are nested too deeply"),
    "long keys in each other": ("x = " + ("{" + "a." * 29 + "b = ") * 9, 1, "arrays or tables are nested too deeply"),
    "a text without end": ('x = """' + '\\"' * 500_000, 1, "has no closing quote"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused_at_once(name: str) -> None:
    text, line, words = HOSTILE[name]
    began_s = time.process_time()
    with pytest.raises(TomlMistake) as caught:
        parse(text)
    assert time.process_time() - began_s < 2.0
    assert (caught.value.line, words in caught.value.message) == (line, True)


def test_the_limits_count_keys_only() -> None:
    text = (
        "a.b.c = 1.5\nl = ["
        + "1.5, " * 200
        + "]\nt = '"
        + "." * 99
        + "'  # "
        + "[." * 99
        + '\nz = { "a.b" = { c = [[1]] } }\n'
    )
    assert parse(text)["z"] == {"a.b": {"c": [[1]]}}
    assert parse(".".join(["a"] * 32) + " = 1")
