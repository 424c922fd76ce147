"""/metrics: OpenMetrics 1.0 text.

# TYPE fluxedge_points counter
# HELP fluxedge_points Points that entered the road.
fluxedge_points_total 1234

A histogram's samples are  NAME_bucket{le="0.5"} (how many are not above), NAME_count and NAME_sum.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fluxedge.api.door import Door
from fluxedge.api.lag import Sampler
from fluxedge.api.live import Live
from fluxedge.api.view import GatewayView, HistogramView

Labels = dict[str, str]
Sample = tuple[Labels, "float | HistogramView"]


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
    kind: typing.Literal["counter", "gauge", "info", "histogram"]
    text: str
    samples: Callable[[Sources], Iterable[Sample]]

    @property
    def sample_name(self) -> str:
        """Return the name as its samples carry it."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


def text(family: Family, sources: Sources) -> str:
    """Return one family as the exposition format has it."""
    lines = [f"# TYPE {family.name} {family.kind}", f"# HELP {family.name} {family.text}"]
    for labels, value in family.samples(sources):
        if isinstance(value, int | float):
            lines.append(f"{family.sample_name}{_inner(labels)} {_number(value)}")
        else:
            lines += _buckets(family.name, labels, value)
    return "\n".join(lines) + "\n"


def _buckets(name: str, labels: Labels, histogram: HistogramView) -> Iterator[str]:
    for bound_s, count in histogram.cumulative():
        le = "+Inf" if bound_s == math.inf else repr(float(bound_s))
        yield f"{name}_bucket{_inner({**labels, 'le': le})} {count}"
    yield f"{name}_count{_inner(labels)} {histogram.count}"
    yield f"{name}_sum{_inner(labels)} {_number(histogram.sum_s)}"


def _inner(labels: Labels) -> str:
    inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
    return "{" + inner + "}" if inner else ""


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if isinstance(value, int) or (math.isfinite(value) and value == int(value)):
        return str(int(value))
    return f"{value:.9g}"
