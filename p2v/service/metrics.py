# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures for Prometheus, read from the converter when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from p2v.service.migrations import Migrations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    "frames": ("p2v_frames", "Frames applied to images."),
    "wire_bytes": ("p2v_wire_bytes", "Payload bytes received on data connections."),
    "written_bytes": ("p2v_written_bytes", "Bytes of disk data written to images."),
    "zero_bytes": ("p2v_zero_bytes", "Bytes of disks declared as zeros."),
    "checkpoints": ("p2v_checkpoints", "Times that images were made durable."),
}


class _Figures(Collector):
    def __init__(self, migrations: Migrations) -> None:
        self._migrations = migrations
        self._began = time.time()

    def collect(self) -> Iterator[Metric]:
        """Yield all figures of this moment."""
        counters = self._migrations.counters()
        for key, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, value=counters.get(key, 0))
        states = GaugeMetricFamily("p2v_migrations", "Migrations by state.", labels=["state"])
        for state, count in self._migrations.store.count().items():
            states.add_metric([state.value], count)
        yield states
        sessions = self._migrations.sessions()
        yield GaugeMetricFamily("p2v_sessions", "Data connections that are open.", value=sessions)
        began = self._began
        yield GaugeMetricFamily("p2v_start_time_seconds", "Start, since the epoch.", value=began)
        age = time.time() - began
        yield GaugeMetricFamily("p2v_uptime_seconds", "Seconds since the start.", value=age)


class Metrics:
    """The registry of one converter."""

    def __init__(self, migrations: Migrations) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Figures(migrations))

    def render(self) -> bytes:
        """Return all figures in the text format, `CONTENT_TYPE`."""
        return generate_latest(self._registry)
