from __future__ import annotations

import pytest

from fluxedge import problems
from fluxedge.config.mistakes import Findings, Mistake, path_text, unknown


def test_a_mistake_reads_like_a_compilers() -> None:
    mistake = Mistake("devices/a.toml", 7, "devices.m1.unit", "300 is not in 1..247", "", "device:m1")
    assert mistake.text() == "devices/a.toml:7: devices.m1.unit: 300 is not in 1..247"


def test_a_hint_follows_after_a_dash() -> None:
    assert Mistake("a.toml", 1, "", "wrong", "Write it right.").text() == "a.toml:1: wrong — Write it right."


def test_a_file_as_a_whole_has_no_line() -> None:
    assert Mistake("a.toml", 0, "", "is larger than 4 MiB").text() == "a.toml: is larger than 4 MiB"


def test_scripts_get_the_parts() -> None:
    assert Mistake("a.toml", 1, "x", "wrong", "Hint.", "device:m").to_json() == {
        "file": "a.toml",
        "line": 1,
        "path": "x",
        "message": "wrong",
        "hint": "Hint.",
        "item": "device:m",
        "code": "config-invalid",
    }


def test_the_codes_are_codes_of_problems() -> None:
    assert {"config-syntax", "config-invalid", "credential-missing"} <= set(problems.CODES)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("devices", "m-1", "unit"), "devices.m-1.unit"),
        (("uplinks", "a", "url", 1), "uplinks.a.url[1]"),
        (("points", "flow temp", 0, 'a"b'), 'points."flow temp"[0]."a\\"b"'),
    ],
)
def test_a_path_is_written_as_toml_writes_it(path: tuple[str | int, ...], text: str) -> None:
    assert path_text(path) == text


def test_a_name_that_does_not_exist_brings_the_nearest_one_or_all() -> None:
    assert unknown("driver", "Meterr", ["meter", "other"]) == 'there is no driver "Meterr": did you mean "meter"?'
    assert unknown("driver", "x", ["meter", "other"]) == 'there is no driver "x"; there are meter, other'
    assert unknown("driver", "x", []) == 'there is no driver "x"'
    assert unknown("driver", "x", [f"name-{i}" for i in range(20)]).endswith("name-11, …")


def test_findings_know_which_items_are_refused() -> None:
    findings = Findings()
    findings.warn("device:a", (), "hm")
    findings.noting("device:b")(("unit",), "wrong", "")
    assert findings.refused() == {"device:b"}
    assert (findings.paths("device:b"), findings.paths("device:a")) == ([("unit",)], [])
