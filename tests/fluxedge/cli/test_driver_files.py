"""Drivers are found by name in every layer, or by the path of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxedge.cli import driver_files
from fluxedge.config.load import Layout
from fluxedge.problems import ConfigProblem

GOOD = 'name = "Mine"\nprotocol = "modbus"\nsource = "me"\n[points]\na = { at = "40001" }\n'


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    shipped = tmp_path / "shipped"
    for folder in ("etc/drivers", "state/site/drivers", "shipped"):
        (tmp_path / folder).mkdir(parents=True)
    (shipped / "meter.toml").write_text(GOOD.replace("Mine", "Shipped"))
    return Layout(tmp_path / "etc", tmp_path / "state", (shipped,))


def test_the_configuration_directory_wins_over_site_and_shipped(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "state/site/drivers/meter.toml").write_text(GOOD.replace("Mine", "Site"))
    found = driver_files.find(layout, "meter")
    assert found is not None
    assert (found.layer, found.driver and found.driver.name) == ("site", "Site")
    (tmp_path / "etc/drivers/meter.toml").write_text(GOOD)
    found = driver_files.find(layout, "meter")
    assert found is not None
    assert (found.layer, found.driver and found.driver.name) == ("config", "Mine")


def test_names_are_those_of_all_layers_each_once(layout: Layout, tmp_path: Path) -> None:
    for name in ("meter", "other", ".#hidden"):
        (tmp_path / f"etc/drivers/{name}.toml").write_text(GOOD)
    assert driver_files.names(layout) == ["meter", "other"]


def test_a_path_is_read_wherever_it_is(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "draft.toml").write_text(GOOD)
    assert driver_files.need(layout, str(tmp_path / "draft.toml")).id == "draft"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (GOOD + "b = 3\n", 6, "points.b"),
        (GOOD.replace("40001", "90001"), 5, "a reference begins with"),  # only the protocol knows
        (GOOD.replace('"Mine"', "Mine"), 1, "bad.toml"),
    ],
)
def test_a_file_with_mistakes_says_where(layout: Layout, tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "etc/drivers/bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigProblem, match=words) as caught:
        driver_files.need(layout, "bad")
    assert f"{path}:{line}: " in caught.value.message


def test_a_name_that_is_nearly_right_gets_a_suggestion(layout: Layout) -> None:
    with pytest.raises(ConfigProblem, match='did you mean "meter"'):
        driver_files.need(layout, "metre")


def test_every_mistake_of_a_file_is_told_at_once(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "etc/drivers/bad.toml"
    path.write_text(f'{GOOD}b = {{ at = "50001" }}\nc = {{ at = "40002", type = "flaot32" }}\n')
    with pytest.raises(ConfigProblem) as caught:
        driver_files.need(layout, "bad")
    assert [line.split(": ")[1] for line in caught.value.message.splitlines()] == ["points.b.at", "points.c.type"]
