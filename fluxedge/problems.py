"""Problems: what is wrong right now, whose fault it is, and what to do.

    Problem(code, sentence, hint)
     |- ConfigProblem   never   the user's file is wrong       -> the item goes on as its last good version
     |- LinkProblem     later   a channel or a broker is down  -> reopen with back-off
     `- DeviceProblem   later   the peer is silent or wrong    -> keep the channel, this device is OFFLINE or BAD
    Refused             these records can never go upstream    -> quarantine, the cursor passes

Every code is a row of CODES; docs/problems.md explains each (a test holds that). Code that meets trouble raises a
Problem; whoever owns the item reports it to the one `ProblemBook`, which counts, keeps the state and tells its
listeners on change only.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

CODES: dict[str, str] = {
    # configuration
    "config-syntax": "A file is not valid TOML.",
    "config-invalid": "A value in a configuration file cannot be used.",
    "using-last-good": "A file is wrong; its last good version goes on.",
    "restart-needed": "A changed setting takes effect at the next start only.",
    "config-unwatched": "Changed configuration files are not noticed by themselves.",
    "credential-missing": "A secret that a file names does not exist or cannot be read.",
    "reload-failed": "A reload could not be carried out; the old configuration goes on.",
    # channels
    "link-down": "A channel cannot be opened, or its connection was lost.",
    "link-refused": "The peer refuses the connection.",
    "link-unreachable": "The peer's address cannot be reached or resolved.",
    "link-permission": "The operating system does not permit opening the port.",
    "port-missing": "The serial port does not exist.",
    "queue-full": "The pipeline is slower than a channel; its poller waits.",
    # devices
    "no-reply": "A device did not answer in time.",
    "bad-reply": "A device answered something that cannot be an answer.",
    "crc-error": "A frame arrived damaged.",
    "illegal-function": "The device does not know the function (Modbus exception 01).",
    "illegal-address": "The device has no such register (Modbus exception 02).",
    "illegal-value": "The device refuses the value or the quantity (Modbus exception 03).",
    "device-failure": "The device reports that it failed (Modbus exceptions 04 and 08).",
    "busy": "The device is busy (Modbus exceptions 05 and 06).",
    "gateway-path": "The gateway before the device has no path to it (Modbus exception 0A).",
    "gateway-target": "The gateway before the device got no answer from it (Modbus exception 0B).",
    "bad-value": "A value is not a number, or outside what its type allows.",
    "late-reply-possible": "After a timeout a late reply cannot be told from a fresh one; values are UNCERTAIN.",
    "overrun": "A channel cannot read everything in its period.",
    # log
    "log-full": "The log has reached its cap; the oldest records were dropped as an announced gap.",
    "log-write-failed": "Records cannot be written to the disk.",
    "log-volatile": "Records are kept in memory only, because the disk takes nothing.",
    "log-damaged": "A part of the log could not be read.",
    "log-replaced": "The log was copied, restored or rolled back (a new epoch began), or removed while in use.",
    "history-failed": "Closed hours cannot be copied to the history files.",
    "history-damaged": "A history file could not be read; it was set aside.",
    "disk-low": "The disk has less free space than the floor.",
    "flash-worn": "The card or disk that holds the log is nearly worn out.",
    # uplinks
    "uplink-down": "The broker cannot be reached or the connection was lost.",
    "uplink-refused": "The broker refuses this client.",
    "uplink-tls": "The TLS handshake with the broker failed.",
    "uplink-throttled": "The broker asks this client to slow down.",
    "uplink-silent": "The broker does not acknowledge what it is sent.",
    "uplink-no-subscribers": "The broker takes messages that nobody has subscribed to.",
    "uplink-clash": "Another client connects with the same client identifier.",
    "uplink-commands": "The broker does not let this gateway listen for commands.",
    "uplink-old-version": "The broker speaks MQTT 3.1.1 only, which cannot say that it refuses a message.",
    "record-refused": "The broker refuses a record for good; it is in quarantine.",
    "clock-unsynced": "The clock is not trusted yet; rounds go out marked as unsynced.",
    # commands
    "command-refused": "A command was not permitted or not possible.",
    "command-unknown": "A command was interrupted; whether the device executed it is not known.",
    # API
    "api-unavailable": "The API's socket or TCP address cannot be opened.",
    # the gateway itself
    "id-replaced": "The gateway's id could not be read; a new one was made up.",
    "file-limit": "The system permits fewer open files than the configuration needs.",
    "bug": "A defect of fluxedge; the item it hit goes on as well as it can.",
}


class Problem(Exception):
    """Something is wrong: a stable `code` of CODES, one sentence, and what to do about it."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"{code!r} is not in problems.CODES")
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ConfigProblem(Problem):
    """Never: the user's file is wrong."""


Advice = typing.Literal["", "older-version", "smaller-window", "smaller-messages", "longer-pause", "suspect-records"]


class LinkProblem(Problem):
    """Later: a channel or a broker is down; its owner reopens it with back-off.

    `advice` is what an uplink's peer wants to be done differently the next time; the forward loop follows it.
    """

    def __init__(self, code: str, message: str, hint: str = "", *, advice: Advice = "") -> None:
        super().__init__(code, message, hint)
        self.advice = advice


class DeviceProblem(Problem):
    """Later: the peer is silent or wrong; the channel stays open.

    `alive` tells that the device did answer (an exception reply): its points are BAD, it is not demoted.
    """

    def __init__(self, code: str, message: str, hint: str = "", *, alive: bool = False) -> None:
        super().__init__(code, message, hint)
        self.alive = alive


class Refused(Exception):
    """The peer will never take these records: {seq: reason}."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(f"{len(reasons)} records refused")
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class Standing:
    """A problem that stands, as `fluxedge status` shows it."""

    item: str  # "device:meter-1", "channel:rs485-1", "uplink:cloud", "log", "file:devices/a.toml"
    code: str
    message: str  # of the latest occurrence
    hint: str
    since_ns: int  # CLOCK_BOOTTIME
    last_ns: int  # CLOCK_BOOTTIME
    count: int  # occurrences since it began to stand


Listener = Callable[[str, str, Standing], None]  # ("raised" | "cleared", item, standing)


class ProblemBook:
    """Keep every standing problem once, count occurrences, tell listeners about changes only."""

    def __init__(self, mono_ns: Callable[[], int]) -> None:
        self._mono_ns = mono_ns
        self._standing: dict[str, dict[str, Standing]] = {}  # item -> code -> what stands
        self.listeners: list[Listener] = []
        self.raised_total: dict[str, int] = dict.fromkeys(CODES, 0)  # code -> occurrences, for metrics

    def report(self, item: str, problem: Problem | None) -> None:
        """Raise `problem` on `item`, or clear everything that stands on `item` when it is None."""
        if problem is None:
            self.clear(item)
            return
        now_ns = self._mono_ns()
        self.raised_total[problem.code] += 1
        codes = self._standing.setdefault(item, {})
        before = codes.get(problem.code)
        if before is None:
            standing = Standing(item, problem.code, problem.message, problem.hint, now_ns, now_ns, 1)
            codes[problem.code] = standing
            self._tell("raised", item, standing)
        else:
            codes[problem.code] = replace(
                before, message=problem.message, hint=problem.hint, last_ns=now_ns, count=before.count + 1
            )

    def hold(self, item: str, problem: Problem) -> None:
        """Let `problem` stand in these words, seen by a look at how things are: looking again is no occurrence."""
        before = self._standing.get(item, {}).get(problem.code)
        if before is None:
            self.report(item, problem)
        else:
            words = replace(before, message=problem.message, hint=problem.hint, last_ns=self._mono_ns())
            self._standing[item][problem.code] = words

    def clear(self, item: str, *codes: str) -> None:
        """Clear the problems of `item` with these codes; all of them when no code is given."""
        standing = self._standing.get(item)
        if standing is None:
            return
        gone = [standing.pop(code) for code in codes or tuple(standing) if code in standing]
        if not standing:
            del self._standing[item]
        for problem in gone:
            self._tell("cleared", item, problem)

    def of(self, item: str) -> list[Standing]:
        """Return what stands on `item`, oldest first."""
        return sorted(self._standing.get(item, {}).values(), key=lambda standing: standing.since_ns)

    def stands(self, item: str, code: str) -> bool:
        """Tell whether `code` stands on `item`."""
        return code in self._standing.get(item, ())

    def __iter__(self) -> Iterator[Standing]:
        """Iterate over everything that stands, oldest first."""
        standing = [one for codes in self._standing.values() for one in codes.values()]
        return iter(sorted(standing, key=lambda standing: standing.since_ns))

    def __len__(self) -> int:
        return sum(len(codes) for codes in self._standing.values())

    def _tell(self, change: str, item: str, standing: Standing) -> None:
        for listener in self.listeners:
            listener(change, item, standing)
