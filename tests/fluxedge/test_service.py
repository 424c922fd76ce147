"""The service: start, reload, watch, watchdog and stop, with real files, signals, log and broker."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import resource
import shutil
import signal
import socket
import threading
import typing
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fluxedge import journal
from fluxedge.app import Gateway
from fluxedge.clock import SystemClock
from fluxedge.config import watch
from fluxedge.config.load import Layout
from fluxedge.log.query import Query, query
from fluxedge.model import Event, Lane
from fluxedge.problems import ConfigProblem, LinkProblem
from fluxedge.service import BadConfig, Service
from tests.conftest import Mosquitto, free_port
from tests.fluxedge.listener import Listener

MAIN = '[gateway]\nid = "gw"\n[log]\ncommit = "50ms"\n'
TANK = 'name = "Tank"\nprotocol = "simulator"\nsource = "none"\n[points]\nlevel = { wave = "constant", from = 5.0 }\n'
DEVICE = '[devices.{}]\ndriver = "tank"\nevery = "{}ms"\n'


class SettableClock(SystemClock):
    """The clock of a machine that is set when the test says so."""

    right = True

    def trusted(self) -> bool:
        return self.right


class Site:
    """A configuration and a state directory, and services that run on them."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.state = folder / "etc", folder / "state"
        for name in ("devices", "drivers", "credentials"):
            (self.etc / name).mkdir(parents=True)
        self.write("fluxedge.toml", MAIN)
        self.write("drivers/tank.toml", TANK)
        self.write("devices/tank.toml", DEVICE.format("tank", 100))
        self.clock = SettableClock()
        self.service = self.fresh()

    def fresh(self) -> Service:
        self.service = Service(Layout(self.etc, self.state, (self.etc / "none",)), self.state, self.clock)
        return self.service

    def write(self, name: str, text: str) -> None:
        """Write as an editor does: whole, then in its place."""
        path = self.etc / name
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(text)
        fresh.chmod(0o640)
        fresh.rename(path)

    @property
    def gateway(self) -> Gateway:
        assert self.service.gateway is not None
        return self.service.gateway

    def problems(self) -> dict[str, str]:
        """Return item -> code of what stands."""
        return {standing.item: standing.code for standing in self.gateway.problems}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Gateway]:
        """Run a fresh service; it must end with exit code 0."""
        service = self.fresh()
        begun = asyncio.Event()
        task = asyncio.ensure_future(service.run(lambda _: begun.set()))
        waiting = asyncio.ensure_future(begun.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            task.result()
        try:
            yield self.gateway
        finally:
            service.stop()
            async with asyncio.timeout(20):
                code = await task
        assert code == 0

    async def events(self, kind: str) -> list[tuple[str, dict[str, typing.Any]]]:
        """Return (item, data) of the log's events of one kind."""
        found = query(self.state / "log.db", Query(lane=Lane.EVENTS, kinds=[kind]))
        return [(r.body.item, r.body.data) async for r in found if isinstance(r.body, Event)]

    async def post_reload(self) -> tuple[int, typing.Any]:
        """Ask for a reload over the socket."""

        def ask() -> tuple[int, typing.Any]:
            connection = http.client.HTTPConnection("localhost", timeout=20)
            connection.sock = socket.socket(socket.AF_UNIX)
            try:
                connection.sock.connect(str(self.state / "api.sock"))
                connection.request("POST", "/api/v1/reload")
                response = connection.getresponse()
                return response.status, json.loads(response.read())
            finally:
                connection.close()

        return await asyncio.to_thread(ask)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def until(holds: Callable[[], object], timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)


# --- start ------------------------------------------------------------------------------------------------------------


async def test_a_start_says_in_one_line_what_runs(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fluxedge")
    async with site.running():
        pass
    (line,) = [record.message for record in caplog.records if " runs: " in record.message]
    assert line.startswith("gateway gw runs: fluxedge ")
    assert "1 device, 0 channels, 0 uplinks" in line
    for path in (site.etc, site.state, site.state / "api.sock"):
        assert str(path) in line
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_empty_directory_is_a_gateway_that_does_nothing_and_says_so(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(site.etc)
    site.etc.mkdir()
    async with site.running():
        pass
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == f"no device is configured: nothing is read; put a file into {site.etc}/devices"


async def test_an_unusable_main_file_without_a_last_good_version_starts_nothing(site: Site) -> None:
    site.write("fluxedge.toml", "[gateway\n")
    with pytest.raises(BadConfig):
        await site.fresh().run()
    assert not (site.state / "log.db").exists()


async def test_an_unusable_state_directory_is_said_in_words(site: Site) -> None:
    site.state.write_text("a file")
    with pytest.raises(LinkProblem, match=f"the state directory cannot be used: {site.state}: it is not a directory"):
        await site.fresh().run()


async def test_a_socket_that_cannot_be_opened_is_said_in_words(site: Site) -> None:
    site.state.mkdir()
    (site.state / "api.sock").write_text("in the way")
    with pytest.raises(LinkProblem, match="is no socket"):
        await site.fresh().run()


async def test_a_tcp_address_in_use_stands_in_the_log_too(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        site.write("fluxedge.toml", MAIN + f'[api]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n')
        async with site.running():
            assert site.problems() == {"api": "api-unavailable"}
    assert [data["code"] for item, data in await site.events("problem")] == ["api-unavailable"]
    assert any("api-unavailable" in record.message for record in caplog.records)


async def test_a_part_that_fails_ends_the_gateway_with_1(site: Site) -> None:
    async def fail() -> None:
        raise ValueError("a defect")

    service = site.fresh()
    code = await service.run(lambda s: s.gateway.owner.spawn(fail(), "part"))
    assert code == 1


async def test_a_sighup_while_it_starts_waits_for_the_start(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Gateway.start

    async def start_and_be_told(gateway: Gateway) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.1)
        await start(gateway)

    monkeypatch.setattr(Gateway, "start", start_and_be_told)
    async with site.running() as gateway:
        await until(lambda: "reload" not in gateway.owner.names())
        assert gateway.owner.names().count("channel:tank@gateway") == 1


# --- reload -----------------------------------------------------------------------------------------------------------

FAULTS = {
    "no descriptor is left": (OSError(24, "Too many open files"), "reload-failed"),
    "a defect": (ZeroDivisionError("oops"), "bug"),
}


@pytest.mark.parametrize("how", ["sighup", "watched", "api"])
@pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS)
async def test_whatever_a_reload_raises_is_a_problem_and_the_gateway_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, fault: Exception, code: str, how: str
) -> None:
    def load(*_: object) -> typing.NoReturn:
        raise fault

    async with site.running() as gateway:
        if how == "watched":
            await watched(site)
        before = dict(gateway.protocols)
        with monkeypatch.context() as broken:
            broken.setattr("fluxedge.service.load", load)
            site.write("devices/more.toml", DEVICE.format("more", 100))
            if how == "sighup":
                os.kill(os.getpid(), signal.SIGHUP)
            elif how == "api":
                status, answer = await site.post_reload()
                assert status == 422
                assert "the old configuration goes on" in answer["mistakes"][0]["message"]
            await until(lambda: site.problems() == {"config:reload": code})
            await asyncio.sleep(0.6)  # the watcher's own reload fails too
        assert {name: gateway.protocols[name] for name in before} == before
        assert site.problems() == {"config:reload": code}
        site.write("devices/more.toml", DEVICE.format("more", 200))
        if how != "watched":
            os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "more" in gateway.protocols)
        await until(lambda: not site.problems())


async def watched(site: Site) -> None:
    """Return when the files are watched: when a dropped file was noticed."""
    number = 0

    def noticed() -> bool:
        nonlocal number
        number += 1
        if number % 60 == 1:
            site.write("devices/probe.toml", DEVICE.format("probe", 1000 + number))
        return "probe" in site.gateway.protocols

    await until(noticed)
    (site.etc / "devices/probe.toml").unlink()
    await until(lambda: "probe" not in site.gateway.protocols)


async def test_a_reload_without_free_descriptors_stops_nothing(site: Site) -> None:
    (site.etc / "fluxedge.toml").unlink()  # what is in no file cannot be broken
    async with site.running() as gateway:
        await watched(site)
        before = dict(gateway.protocols)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            await site.service.reload()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert gateway.protocols == before
        assert site.problems()
        await site.service.reload()
        assert not site.problems()


async def test_a_reload_that_breaks_off_in_the_middle_goes_back_and_the_next_one_heals(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    uplink = f'[uplinks.{{}}]\nurl = "mqtt://127.0.0.1:{free_port()}"\n'
    site.write("fluxedge.toml", MAIN + uplink.format("old"))
    async with site.running() as gateway:
        start = Gateway._start_uplink

        def refuse(self: Gateway, name: str, cfg: typing.Any) -> None:
            if name == "new":
                raise RuntimeError("a defect")
            start(self, name, cfg)

        site.write("devices/tank.toml", DEVICE.format("tank", 200))
        site.write("fluxedge.toml", MAIN + uplink.format("new"))
        with monkeypatch.context() as broken:
            broken.setattr(Gateway, "_start_uplink", refuse)
            await site.service.reload()
            assert site.problems()["config:reload"] == "bug"
        assert list(gateway.forwarders) == ["old"]
        assert gateway.config.devices["tank"].every_s == 0.1
        assert set(gateway.pollers["tank@gateway"]._swap or gateway.pollers["tank@gateway"].devices) == {"tank"}
        await site.service.reload()
        assert list(gateway.forwarders) == ["new"]
        assert gateway.config.devices["tank"].every_s == 0.2
        assert "config:reload" not in site.problems()


async def test_what_is_wrong_uses_its_last_good_version_until_it_is_right(site: Site) -> None:
    async with site.running() as gateway:
        before = dict(gateway.protocols)
        site.write("devices/tank.toml", '[devices.tank]\ndriver = "tank"\nevery = "soon"\n')
        done = await site.service.reload()
        assert site.problems() == {"config:device:tank": "using-last-good"}
        assert list(done.kept) == ["device:tank"]
        assert gateway.protocols == before
        site.write("devices/tank.toml", DEVICE.format("tank", 100))
        await site.service.reload()
        assert site.problems() == {}


async def test_a_changed_table_that_needs_a_restart_stands_until_it_is_changed_back(site: Site) -> None:
    async with site.running():
        site.write("fluxedge.toml", MAIN.replace("[log]", 'label = "roof"\n[log]').replace("50ms", "60ms"))
        assert (await site.service.reload()).restart_needed == ("gateway", "log")
        assert site.problems() == {"config:restart": "restart-needed"}
        site.write("fluxedge.toml", MAIN)
        await site.service.reload()
        assert site.problems() == {}


async def test_a_last_good_version_that_cannot_be_kept_is_a_problem_until_it_can(site: Site) -> None:
    async with site.running():
        shutil.rmtree(site.state / "last-good")
        (site.state / "last-good").write_text("in the way")
        await site.service.reload()
        assert site.problems() == {"config": "log-write-failed"}
        (site.state / "last-good").unlink()
        await site.service.reload()
        assert site.problems() == {}


async def test_a_change_of_the_configuration_is_an_event(site: Site) -> None:
    async with site.running():
        site.write("devices/tank.toml", DEVICE.format("tank", 200))
        await site.service.reload()
        await site.service.reload()  # nothing has changed: no event
    assert await site.events("config") == [
        ("gateway", {"started": ["device:tank"], "stopped": []}),
        ("gateway", {"started": ["device:tank"], "stopped": ["device:tank"]}),
    ]


async def test_a_deleted_credential_costs_a_running_uplink_nothing_until_the_next_start(site: Site) -> None:
    cloud = f'[uplinks.cloud]\nurl = "mqtt://127.0.0.1:{free_port()}"\nusername = "gw"\npassword = "broker"\n'
    site.write("fluxedge.toml", MAIN + cloud)
    site.write("credentials/broker", "secret\n")
    async with site.running() as gateway:
        forwarder = gateway.forwarders["cloud"]
        (site.etc / "credentials/broker").unlink()
        for _ in range(2):
            done = await site.service.reload()
            assert list(done.kept) == ["uplink:cloud"]
            assert site.problems()["config:uplink:cloud"] == "credential-missing"
            assert gateway.forwarders["cloud"] is forwarder
            assert gateway.config.secrets == {"broker": "secret"}
        site.write("credentials/broker", "secret\n")
        await site.service.reload()
        assert "config:uplink:cloud" not in site.problems()
        assert gateway.forwarders["cloud"] is forwarder
        (site.etc / "credentials/broker").unlink()
        await site.service.reload()
    async with site.running() as gateway:
        assert not gateway.forwarders
        assert site.problems() == {"config:uplink:cloud": "credential-missing"}


async def test_too_few_open_files_for_the_configuration_are_a_problem(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.running():
        monkeypatch.setattr("fluxedge.service.OTHER_FILES", 1 << 62)
        await site.service.reload()
        assert site.problems() == {"gateway": "file-limit"}
        monkeypatch.undo()
        await site.service.reload()
        assert site.problems() == {}


# --- watching ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxedge.service.WATCH_AGAIN_FIRST_S", 0.05)


@pytest.mark.usefixtures("_quick_retries")
async def test_files_that_cannot_be_watched_are_tried_again_and_what_was_missed_is_applied(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    async def refuse(*_: object) -> AsyncIterator[frozenset[Path]]:
        nonlocal tried
        tried += 1
        raise ConfigProblem("config-unwatched", "files are not watched: too many open files")
        yield frozenset()

    with monkeypatch.context() as broken:
        broken.setattr(watch, "changes", refuse)
        service = site.running()
        gateway = await service.__aenter__()
        await until(lambda: tried > 2)
    try:
        assert site.problems() == {"config": "config-unwatched"}
        site.write("devices/more.toml", DEVICE.format("more", 100))
        await until(lambda: "more" in gateway.protocols)
        assert site.problems() == {}
    finally:
        await service.__aexit__(None, None, None)


@pytest.mark.usefixtures("_quick_retries")
async def test_a_failing_reload_is_not_taken_for_a_failing_watch(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site.running() as gateway:
        await watched(site)
        with monkeypatch.context() as broken:
            broken.setattr(gateway, "apply", _no_space)
            site.write("devices/more.toml", DEVICE.format("more", 100))
            await until(site.problems)
            assert site.problems() == {"config:reload": "reload-failed"}
            assert "config-watch" in gateway.owner.names()


async def _no_space(_: object) -> typing.NoReturn:
    raise OSError(28, "No space left on device")


# --- other problems and events of the start ---------------------------------------------------------------------------


async def test_a_copied_log_is_a_problem(site: Site) -> None:
    async with site.running() as gateway:
        epoch = gateway.log.epoch
    shutil.copy(site.state / "log.db", site.state / "copy")
    (site.state / "copy").rename(site.state / "log.db")
    async with site.running() as gateway:
        assert site.problems() == {"log": "log-replaced"}
        assert gateway.log.epoch > epoch
    assert [data["code"] for item, data in await site.events("problem") if item == "log"] == ["log-replaced"]


async def test_a_clock_that_is_not_set_is_a_problem_until_it_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxedge.clock_watch.LOOK_S", 0.05)
    site.clock.right = False
    async with site.running():
        await until(lambda: site.problems() == {"clock": "clock-unsynced"})
        site.clock.right = True
        await until(lambda: not site.problems())


async def test_an_uplink_that_comes_and_goes_is_told_in_events(site: Site, broker: Mosquitto) -> None:
    site.write("fluxedge.toml", MAIN + f'[uplinks.cloud]\nurl = "mqtt://127.0.0.1:{broker.port}"\n')
    async with site.running() as gateway:
        await until(lambda: gateway.forwarders["cloud"].uplink is not None)
        site.write("fluxedge.toml", MAIN)
        await site.service.reload()
    assert await site.events("uplink-state") == [
        ("uplink:cloud", {"state": "connected"}),
        ("uplink:cloud", {"state": "disconnected"}),
    ]


# --- stop -------------------------------------------------------------------------------------------------------------


async def test_sigterm_commits_what_is_queued_and_says_offline(site: Site, broker: Mosquitto) -> None:
    uplink = f'[uplinks.cloud]\nurl = "mqtt://127.0.0.1:{broker.port}"\n'
    site.write("fluxedge.toml", MAIN.replace("50ms", "1m") + uplink)  # only the stop commits
    site.write("devices/tank.toml", DEVICE.format("tank", 10))
    listener = await asyncio.to_thread(Listener, broker.port, "fluxedge/gw/status")
    try:
        async with site.running() as gateway:
            await until(lambda: gateway.pipeline.rounds_total > 20 and listener.payloads)
            os.kill(os.getpid(), signal.SIGTERM)
            await site.service._stop.wait()
        taken, events = gateway.pipeline.rounds_total, gateway.pipeline.events_total
        await until(lambda: len(listener.payloads) == 2)
    finally:
        listener.close()
    assert [json.loads(payload)["state"] for _, payload in listener.payloads] == ["online", "offline"]
    assert gateway.pipeline.dropped_events_total <= 1  # that the uplink went, after the log's end
    assert gateway.log.heads == {Lane.ROUNDS: taken, Lane.EVENTS: events}
    assert len([r async for r in query(site.state / "log.db", Query())]) == taken
    assert await site.events("stop") == [("gateway", {})]


async def test_a_stop_lets_a_reload_in_progress_end_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site.running() as gateway:
        apply = gateway.apply
        begun, ended = asyncio.Event(), False

        async def slowly(config: typing.Any) -> typing.Any:
            nonlocal ended
            begun.set()
            await asyncio.sleep(0.3)
            steps = await apply(config)
            ended = True
            return steps

        monkeypatch.setattr(gateway, "apply", slowly)
        site.write("devices/more.toml", DEVICE.format("more", 100))
        os.kill(os.getpid(), signal.SIGHUP)
        await begun.wait()
    assert ended
    assert site.problems() == {}


# --- systemd ----------------------------------------------------------------------------------------------------------


class Systemd:
    """Stands for systemd.daemon: keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def notify(self, message: str) -> None:
        self.said.append(message)

    def fed(self) -> int:
        return self.said.count("WATCHDOG=1")


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    found = Systemd()
    monkeypatch.setattr(journal, "_daemon", found)
    monkeypatch.setenv("WATCHDOG_USEC", "600000")
    return found


async def test_the_watchdog_is_fed_only_while_the_writer_gives_outcomes(site: Site, systemd: Systemd) -> None:
    async with site.running() as gateway:
        await until(lambda: systemd.fed() > 3)
        stuck = threading.Event()
        gateway.log._writer.start(lambda _: stuck.wait(20))
        try:
            await asyncio.sleep(0.8)  # the limit, and a turn of the feeder
            fed = systemd.fed()
            await asyncio.sleep(0.8)
            assert systemd.fed() == fed
        finally:
            stuck.set()
        await until(lambda: systemd.fed() > fed)


async def test_systemd_is_told_about_start_reload_and_stop(site: Site, systemd: Systemd) -> None:
    async with site.running():
        await site.service.reload()
        await until(lambda: any(said.startswith("STATUS=1 of 1 devices online") for said in systemd.said))
    states = [said for said in systemd.said if "=1" in said and not said.startswith(("WATCHDOG", "STATUS"))]
    assert states == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]


async def test_a_failed_reload_does_not_leave_systemd_waiting(
    site: Site, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.running() as gateway:
        monkeypatch.setattr(gateway, "apply", _no_space)
        await site.service.reload()
        assert systemd.said[-1] == "READY=1"
