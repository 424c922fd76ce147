"""Refused commands, told sparingly: whoever asks for the impossible a thousand times a second must not fill the log.

The first refusal of a kind (who, device and point, code) is told at once. Those that follow are counted, and told in
one event a minute with their number. The table of kinds is bounded; what finds no place in it is counted together.
"""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Callable
from dataclasses import dataclass

from fluxedge.permissions import Principal

TELL_EVERY_S = 60.0
KINDS = 256
TOLD_AT_ONCE = 32  # events in one go: the loop has other things to do

Kind = tuple[str, str, str]  # who, "device.point", code
Data = dict[str, typing.Any]
Tell = Callable[[str, Data], object]  # (item, data of an event)

_OTHERS: Kind = ("", "", "")


@dataclass(slots=True)
class _Counted:
    item: str
    data: Callable[[], Data]  # of the latest one
    said_s: float  # loop time of the event before
    count: int = 0  # since then


class Refusals:
    """Count refusals by kind, and tell what is new about them."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._kinds: dict[Kind, _Counted] = {}  # the one that is told next first
        self._timer: asyncio.TimerHandle | None = None

    def note(self, who: Principal, target: str, code: str, item: str, data: Callable[[], Data]) -> None:
        """Take a refusal in; `data` makes its event's data when that is told."""
        kind = (str(who), target, code)
        known = self._kinds.get(kind)
        if known is None and len(self._kinds) >= KINDS:
            kind, item, data = _OTHERS, "gateway", _of_others
            known = self._kinds.get(kind)
        if known is not None:
            known.item, known.data = item, data
            known.count += 1
            return
        now_s = asyncio.get_running_loop().time()
        self._kinds[kind] = _Counted(item, data, now_s)
        self._tell(item, data())
        self._set_timer()

    def close(self) -> None:
        """Tell what is counted, and be done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for counted in self._kinds.values():
            self._say(counted)
        self._kinds.clear()

    def _set_timer(self) -> None:
        if self._timer is None and self._kinds:
            next_s = next(iter(self._kinds.values())).said_s + TELL_EVERY_S
            self._timer = asyncio.get_running_loop().call_at(next_s, self._flush)

    def _flush(self) -> None:
        """Tell the oldest kinds again if something was counted, else forget them."""
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        due = [kind for kind, counted in self._kinds.items() if counted.said_s + TELL_EVERY_S <= now_s + 0.001]
        for kind in due[:TOLD_AT_ONCE]:
            counted = self._kinds.pop(kind)
            if self._say(counted):
                counted.said_s, counted.count = now_s, 0
                self._kinds[kind] = counted
        self._set_timer()

    def _say(self, counted: _Counted) -> bool:
        if counted.count:
            self._tell(counted.item, counted.data() | {"n": counted.count})
        return counted.count > 0


def _of_others() -> Data:
    text = f"more than {KINDS} kinds of commands were refused within a minute; these are not told apart"
    return {"state": "refused", "code": "command-refused", "message": text, "by": "others"}
