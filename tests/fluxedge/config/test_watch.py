from __future__ import annotations

import asyncio
import typing
from pathlib import Path

from fluxedge.config.watch import changes

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
