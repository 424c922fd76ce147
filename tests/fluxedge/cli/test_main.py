"""The list of verbs."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fluxedge.cli.main import USAGE, VERBS, main


@pytest.mark.parametrize(
    ("words", "meant"), [(["statsu"], "status"), (["drivers", "lss"], "ls"), (["log", "qurey", "--json"], "query")]
)
def test_a_misspelt_verb_gets_a_suggestion(words: list[str], meant: str) -> None:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == USAGE
    assert f'did you mean "{meant}"?' in done.stderr


def test_a_word_like_no_verb_gets_the_list() -> None:
    done = CliRunner().invoke(main, ["frobnicate"])
    assert done.exit_code == USAGE
    assert "there are run, check, status" in done.stderr


def test_the_list_of_verbs_is_in_the_help() -> None:
    text = CliRunner().invoke(main, ["-h"]).stdout
    assert all(f"\n  {verb} " in text for verb in VERBS)


def test_an_unknown_option_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["--frobnicate"]).exit_code == USAGE
