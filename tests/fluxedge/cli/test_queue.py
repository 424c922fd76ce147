"""`fluxedge queue`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fluxedge.api.lag import Rate
from fluxedge.cli.main import main
from fluxedge.config.structs import UplinkCfg
from tests.conftest import free_port
from tests.fluxedge.api.queues import announced, rows, waiting
from tests.fluxedge.api.running import config, running
from tests.fluxedge.cli.conftest import verb


class Steady(Rate):
    """A log that grows by 1000 bytes a second."""

    @property
    def per_s(self) -> float:
        return 1000.0


async def test_it_shows_how_far_an_uplink_without_broker_is_behind(tmp_path: Path) -> None:
    uplinks = {"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{free_port()}")}
    async with running(tmp_path, config(uplinks=uplinks)) as run:
        await run.first_round()
        run.api.sampler.log_bytes = Steady()
        found = json.loads((await verb("queue", "--json", "--state", str(tmp_path))).stdout)
        lines = (await verb("queue", "--state", str(tmp_path))).stdout.splitlines()
        glance = (await verb("status", "--state", str(tmp_path))).stdout
    lane = {lane["lane"]: lane for lane in found[0]["lanes"]}
    assert found[0]["state"] == "down"
    assert lane["rounds"]["records"] > 0
    assert lane["rounds"]["oldest_us"] > 0
    assert 0 < found[0]["autonomy_h"] <= 400 * 24
    assert lines[0].split()[:6] == ["uplink", "state", "for", "lane", "behind", "oldest"]
    assert lines[1].split()[:2] == ["cloud", "down"]
    assert lines[1].split()[2].isdecimal(), "for how long it has been down"
    assert "cloud down for " in glance
    assert "the log can wait" in glance


async def test_without_uplinks_it_says_so(say) -> None:
    assert "No uplinks are configured" in (await say("queue")).stdout


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Result]]]:
    """Run `fluxedge queue WORDS` beside a gateway whose uplink waits; see tests/fluxedge/api/queues.py."""
    async with waiting(tmp_path) as run:

        async def say(word: str, *words: str, answer: str = "") -> Result:
            arguments = ["queue", word, "--state", str(tmp_path), *words]
            return await asyncio.to_thread(lambda: CliRunner().invoke(main, arguments, input=answer))

        say.run = run  # type: ignore[attr-defined]
        yield say


async def test_queue_alone_and_with_options_is_ls(queue, tmp_path: Path) -> None:
    alone = await verb("queue", "--state", str(tmp_path), "--json")
    assert json.loads(alone.stdout)[0]["id"] == json.loads((await queue("ls", "--json")).stdout)[0]["id"] == "cloud"
    assert "show" in (await verb("queue", "--help")).stdout
    wrong = await verb("queue", "shwo")
    assert wrong.exit_code == 2
    assert 'did you mean "show"' in wrong.stderr


async def test_show_tells_ranges_and_what_was_refused(queue) -> None:
    found = await queue("show")
    assert found.exit_code == 0
    lines = found.stdout.splitlines()
    assert lines[0].startswith("cloud   down   autonomy")
    assert lines[1].split() == ["lane", "waiting", "live", "backlog", "oldest", "bytes", "seqs", "epoch"]
    assert "in quarantine: 4 records in 2 rows, 10 B" in lines
    assert any("  2 to 4  " in line and line.endswith("payload format invalid") for line in lines)
    assert json.loads((await queue("show", "cloud", "--json")).stdout)[0]["quarantine_rows"] == 2
    missing = await queue("show", "clod")
    assert (missing.exit_code, missing.stderr.splitlines()[-1]) == (1, "Did you mean cloud?")


async def test_show_prints_a_payload_as_it_was_sent(queue) -> None:
    one, two = await rows(queue.run)
    found = await queue("show", "--quarantine", str(one))
    assert found.stdout == '{"n": 3}\n'
    assert "payload format invalid" in found.stderr
    assert (await queue("show", "--quarantine", str(two))).stdout_bytes == b"\xff\xfe\n"
    assert json.loads((await queue("show", "--quarantine", str(one), "--json")).stdout)["payload"] == '{"n": 3}'
    assert (await queue("show", "--quarantine", "99")).exit_code == 1
    assert (await queue("show", "cloud", "--quarantine", "1")).exit_code == 2


async def test_retry_says_what_it_does_and_what_is_missing(queue) -> None:
    one, _ = await rows(queue.run)
    found = await queue("retry", str(one), "99")
    assert found.stdout == "1 row of the quarantine (3 records) will be sent once more.\n"
    assert (found.exit_code, found.stderr) == (1, "Not in the quarantine (any more): 99\n")
    assert json.loads((await queue("retry", "--all", "--uplink", "cloud", "--json")).stdout)["rows"] == 2
    assert (await queue("retry")).exit_code == 2
    assert (await queue("retry", "1", "--all")).exit_code == 2
    assert "to be sent again" in (await queue("show")).stdout


async def test_drop_asks_first_and_changes_nothing_without_a_yes(queue) -> None:
    words = ("drop", "cloud", "--lane", "rounds", "--upto", "6")
    found = await queue(*words, answer="n\n")
    assert found.exit_code == 1
    assert "3 records would be given up for cloud:" in found.stderr
    assert "5 to 6 of epoch" in found.stderr
    assert "Nothing was changed." in found.stderr
    assert (await queue(*words, answer="")).exit_code == 1, "nobody there to answer"
    found = await queue(*words, answer="y\n")
    assert (found.exit_code, found.stdout) == (0, "3 records given up and announced as a gap.\n")
    assert (await queue(*words, "--yes")).stdout == "Nothing of that waits.\n"


async def test_drop_of_rows_and_of_what_is_old(queue) -> None:
    one, two = await rows(queue.run)
    assert (
        "1 row of the quarantine (3 records) given up"
        in (await queue("drop", "--quarantine", str(one), "--yes")).stdout
    )
    assert await rows(queue.run) == [two]
    assert (await queue("drop", "cloud", "--older-than", "2d")).stdout == "Nothing of that waits.\n"
    for words in (
        ("drop",),
        ("drop", "cloud", "--quarantine", "1"),
        ("drop", "cloud", "--upto", "1", "--older-than", "2d"),
    ):
        assert (await queue(*words)).exit_code == 2, words


async def test_export_writes_a_file_that_is_whole(queue, tmp_path: Path) -> None:
    path = tmp_path / "cloud.jsonl"
    found = await queue("export", "cloud", "--output", str(path))
    assert found.exit_code == 0
    lines = path.read_text().splitlines()
    assert f"{len(lines)} lines written" in found.stderr
    assert [name for line in lines[:3] for name in json.loads(line)] == ["quarantine", "quarantine", "record"]
    assert path.stat().st_mode & 0o777 == 0o600
    shown = (await queue("export", "--what", "quarantine")).stdout.splitlines()
    assert shown == lines[:2]


async def test_export_that_is_refused_makes_no_file(queue, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert (await queue("export", "clod", "--output", str(path))).exit_code == 1
    assert (await queue("export", "--output", str(path))).exit_code == 2
    assert not path.exists()


async def test_gaps_and_many_ranges_are_shown(queue) -> None:
    run = queue.run
    await queue("drop", "cloud", "--lane", "rounds", "--upto", "6", "--yes")
    await announced(run)
    found = (await queue("show")).stdout
    assert "lost and given up: 3 records" in found
    assert any(line.split()[2:4] == ["rounds", "dropped"] and "announced" in line for line in found.splitlines())
