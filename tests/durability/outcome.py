"""What a scenario found: how often a fault was injected, what was promised, and what became of it."""

from __future__ import annotations

import json
import time
import typing
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Outcome:
    """The counts of one scenario; `promised` = delivered + quarantined + gaps + held, and what is left was lost."""

    scenario: str
    fault: str
    seed: int
    injected: int = 0  # faults
    promised: int = 0  # records that were acknowledged as durable
    delivered: int = 0  # of them: that the peer acknowledged or the consumer got
    quarantined: int = 0
    gaps: int = 0  # of them: given up, and announced
    held: int = 0  # of them: still in the log, to be delivered
    duplicates: int = 0  # records that came, or will come, more than once
    lost: int = 0  # of them: none of these
    broken: list[str] = field(default_factory=list)  # every promise that was broken, in words
    facts: dict[str, typing.Any] = field(default_factory=dict)  # whatever else is worth knowing
    seconds: float = 0.0
    begun_s: float = field(default_factory=time.monotonic, repr=False)

    def must_hold(self) -> None:
        """Fail with everything that was broken."""
        assert not self.broken, f"{self.scenario}, seed {self.seed}: " + "\n  ".join(self.broken[:20])
        assert not self.lost, f"{self.scenario}, seed {self.seed}: {self.lost} records were lost"
        assert self.injected, f"{self.scenario}: no fault was injected"
        assert self.promised, f"{self.scenario}: nothing was promised"

    def end(self) -> Outcome:
        """Note how long it took."""
        self.seconds = round(time.monotonic() - self.begun_s, 1)
        return self

    def save(self, folder: Path) -> None:
        """Write it where the report looks for it."""
        folder.mkdir(parents=True, exist_ok=True)
        body = {name: value for name, value in asdict(self).items() if name != "begun_s"}
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in self.scenario)
        (folder / f"{name}.json").write_text(json.dumps(body, indent=2) + "\n")
