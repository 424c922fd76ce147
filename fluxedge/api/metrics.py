"""/metrics: OpenMetrics 1.0 text.

# TYPE fluxedge_points counter
# HELP fluxedge_points Points that entered the road.
fluxedge_points_total 1234
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fluxedge.api.door import Door
from fluxedge.api.lag import Sampler
from fluxedge.api.live import Live
from fluxedge.api.view import GatewayView

Labels = dict[str, str]
Sample = tuple[Labels, float]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers come from."""

    view: GatewayView
    sampler: Sampler
    live: Live
    doors: tuple[Door, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, without the suffix `_total` of a counter."""

    name: str
    kind: typing.Literal["counter", "gauge", "info"]
    text: str
    samples: Callable[[Sources], Iterable[Sample]]

    @property
    def sample_name(self) -> str:
        """Return the name as its samples carry it."""
        return self.name + {"counter": "_total", "info": "_info", "gauge": ""}[self.kind]


def text(family: Family, sources: Sources) -> str:
    """Return one family as the exposition format has it."""
    lines = [f"# TYPE {family.name} {family.kind}", f"# HELP {family.name} {family.text}"]
    for labels, value in family.samples(sources):
        inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        lines.append(f"{family.sample_name}{'{' + inner + '}' if inner else ''} {_number(value)}")
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if isinstance(value, int) or (math.isfinite(value) and value == int(value)):
        return str(int(value))
    return f"{value:.9g}"
