from __future__ import annotations

import asyncio
import resource
import typing
from pathlib import Path

import pytest

from fluxedge.config import watch as watching
from fluxedge.config.sources import Layout
from fluxedge.config.watch import changes
from fluxedge.problems import ConfigProblem

if typing.TYPE_CHECKING:
    from tests.fluxedge.config.conftest import Site


async def next_change(site: Site, act: typing.Callable[[], object]) -> set[str]:
    """Return the names that are told after `act`, which is repeated until the watcher has begun."""
    stop = asyncio.Event()
    found: set[Path] = set()

    async def watch() -> None:
        async for paths in changes(site.layout, stop):
            found.update(paths)
            stop.set()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(watch())
        while not stop.is_set():
            act()
            await asyncio.sleep(0.6)
    return {path.name for path in found}


async def test_a_dropped_file_is_told(site: Site) -> None:
    assert await next_change(site, lambda: site.write("devices/a.toml", "x")) >= {"a.toml"}


async def test_a_dropped_file_is_told_where_the_directory_was_named_from_here(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.folder.parent)
    site.write("devices/other.toml", "x")  # else the new folder may be told first
    stop = asyncio.Event()
    found: set[Path] = set()

    async with asyncio.timeout(20):
        async for paths in changes(Layout(Path(site.folder.name)), stop):
            found.update(paths)
            if paths:
                stop.set()
            else:  # the watch stands
                site.write("devices/a.toml", "x")
    assert "a.toml" in {path.name for path in found}


async def test_a_file_of_the_site_is_told(site: Site) -> None:
    folder = site.state / "site"
    found = await next_change(site, lambda: folder.is_dir() and _drop(folder / "devices" / "web.toml"))
    assert found & {"devices", "web.toml"}


async def test_what_editors_leave_behind_is_not_told(site: Site) -> None:
    def act() -> None:
        site.write("devices/.a.toml.swp", "x")
        site.write("devices/a.toml~", "x")
        site.write("devices/a.toml", "x")

    assert await next_change(site, act) <= {"devices", "a.toml"}


async def test_stopping_ends_the_watch_at_once(site: Site) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, stop.set)
    async with asyncio.timeout(5):
        assert [paths async for paths in changes(site.layout, stop)] == []


async def test_cancelling_the_watch_does_not_set_the_callers_signal(site: Site) -> None:
    stop = asyncio.Event()

    async def watch() -> None:
        async for _ in changes(site.layout, stop):
            pass

    task = asyncio.ensure_future(watch())
    await asyncio.sleep(0.3)
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert not stop.is_set()


async def test_without_a_directory_there_is_nothing_to_tell(site: Site) -> None:
    site.folder.rmdir()
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, stop.set)
    async with asyncio.timeout(5):
        assert [paths async for paths in changes(site.layout, stop)] == []


def _drop(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")


async def test_a_state_kept_in_the_directory_is_not_told(site: Site) -> None:
    def act() -> None:
        site.write("state/log.db-wal", "x")
        site.write("notes.txt", "x")
        site.write("devices/a.toml", "x")

    assert await next_change(site, act) <= {"devices", "a.toml"}


async def first(site: Site) -> frozenset[Path]:
    """Return the first set that is told."""
    stop = asyncio.Event()
    async with asyncio.timeout(20):
        async for paths in changes(site.layout, stop):
            stop.set()
            found = paths
    return found


async def test_a_quiet_watch_says_once_that_it_stands(site: Site) -> None:
    assert await first(site) == frozenset()


async def test_a_system_without_free_descriptors_is_said_in_words_of_a_problem(site: Site) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(ConfigProblem, match=r"files are not watched: .*Too many open files") as caught:
            await first(site)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.code == "config-unwatched"
    assert await first(site) == frozenset()  # it can be tried again


async def test_a_site_directory_that_cannot_be_made_is_a_problem(site: Site) -> None:
    (site.state / "site").write_text("in the way")
    with pytest.raises(ConfigProblem, match="files are not watched"):
        await first(site)


async def test_a_fault_in_the_middle_of_the_watch_is_a_problem(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> typing.AsyncIterator[set[object]]:
        yield set()
        raise ExceptionGroup("a task group", [RuntimeError("can't start new thread")])  # as anyio wraps it

    monkeypatch.setattr(watching, "awatch", broken)
    with pytest.raises(ConfigProblem, match="can't start new thread"):
        async for _ in changes(site.layout, asyncio.Event()):
            pass


async def told(site: Site, *acts: typing.Callable[[], object]) -> list[set[str]]:
    """Return the names told after each act; an act is done when the watch stands."""
    stop = asyncio.Event()
    waiting = list(acts)
    found: list[set[str]] = []
    async with asyncio.timeout(30):
        async for paths in changes(site.layout, stop):
            if paths:
                found.append({path.name for path in paths})
                if len(found) == len(acts):
                    stop.set()
            elif waiting:
                waiting.pop(0)()
    return found


@pytest.fixture
def _looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_S", 0.3)
    monkeypatch.setattr(watching, "STANDS_S", 0.3)


@pytest.mark.usefixtures("_looking_often")
async def test_a_directory_that_was_replaced_is_told_and_watched_again(site: Site) -> None:
    def replace() -> None:
        site.folder.rename(site.folder.with_name("old"))
        site.folder.mkdir()

    replaced, dropped = await told(site, replace, lambda: site.write("devices/a.toml", "x"))
    assert site.folder.name in replaced
    assert dropped & {"devices", "a.toml"}


@pytest.mark.usefixtures("_looking_often")
async def test_a_directory_that_appears_is_told(site: Site) -> None:
    site.folder.rmdir()
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, site.folder.mkdir)
    async with asyncio.timeout(20):
        async for paths in changes(site.layout, stop):
            if paths:
                stop.set()
                assert site.folder in paths


@pytest.mark.usefixtures("_looking_often")
async def test_a_changed_file_behind_a_link_is_told(site: Site, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.toml"
    real.write_text("x")
    (site.folder / "devices").mkdir()
    (site.folder / "devices" / "a.toml").symlink_to(real)
    (names,) = await told(site, lambda: real.write_text("another"))
    assert names == {"a.toml"}


@pytest.mark.usefixtures("_looking_often")
async def test_a_link_that_points_to_another_configuration_is_told(site: Site, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    site.folder.rmdir()
    site.folder.symlink_to(tmp_path / "one")

    def swap() -> None:
        site.folder.unlink()
        site.folder.symlink_to(tmp_path / "two")

    (names,) = await told(site, swap)
    assert site.folder.name in names


async def test_what_changed_between_reading_and_watching_is_told(site: Site) -> None:
    site.write("devices/a.toml", "x")
    seen = watching.stamp(site.layout)
    site.write("devices/b.toml", "x")
    stop = asyncio.Event()
    async with asyncio.timeout(20):
        async for paths in changes(site.layout, stop, seen):
            stop.set()
            names = {path.name for path in paths}
    assert names == {"b.toml"}
