"""The bundle: an archive for whoever helps, without secrets and without what was measured.

    fluxedge-doctor/README.txt     what is in it, and what was left out and why
                    report.txt     the findings, as on the screen
                    report.json    the findings and the facts behind them
                    config.json    the configuration in effect, secrets hidden
                    status.json problems.json devices.json channels.json uplinks.json queue.json version.json
                    metrics.txt journal.txt

A tar, compressed by gzip; every file has mode 0600 and the time of the bundle.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field

from fluxedge.doctor.redact import Data, Redactor

FOLDER = "fluxedge-doctor"
_NEVER = (
    "Never in it: credentials/, log.db and the history (what was measured), payloads in quarantine, the files of the",
    "configuration as they are written, user names and passwords.",
)


@dataclass(slots=True)
class Bundle:
    """Parts in the making; everything passes the redactor."""

    redactor: Redactor
    parts: dict[str, bytes] = field(default_factory=dict)  # name -> content
    left_out: dict[str, str] = field(default_factory=dict)  # name -> why

    def add_text(self, name: str, text: str) -> None:
        """Put a text in."""
        self._add(name, self.redactor.text(text).encode())

    def add_data(self, name: str, data: Data) -> None:
        """Put data in as JSON."""
        self._add(name, json.dumps(self.redactor.data(data), ensure_ascii=False, indent=1).encode() + b"\n")

    def leave_out(self, name: str, why: str) -> None:
        """Say that something is missing."""
        self.left_out[name] = self.redactor.text(why)

    def _add(self, name: str, content: bytes) -> None:
        if self.redactor.leaks(content):
            self.left_out[name] = "a secret would have been in it"
        else:
            self.parts[name] = content

    def write(self, target: typing.BinaryIO, at_s: float) -> None:
        """Write the archive."""
        readme = "\n".join(self._readme(at_s)).encode() + b"\n"
        with (
            gzip.GzipFile("", "wb", fileobj=target, mtime=int(at_s)) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, content in {"README.txt": readme, **self.parts}.items():
                entry = tarfile.TarInfo(f"{FOLDER}/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(at_s), 0o600
                archive.addfile(entry, io.BytesIO(content))

    def _readme(self, at_s: float) -> list[str]:
        lines = [f"fluxedge doctor, {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(at_s))}", "", "In it:"]
        lines += _listed({name: f"{len(content):,} bytes" for name, content in self.parts.items()})
        lines += ["", "Left out:" if self.left_out else "Nothing that was asked for is left out."]
        return [*lines, *_listed(self.left_out), "", *_NEVER]


def _listed(rows: Mapping[str, str]) -> list[str]:
    return [f"  {name:<16} {text}" for name, text in rows.items()]
