"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from wanjax.caching.plan import Step
from wanjax.pipeline.video import Video
from wanjax.serve.jobs import Jobs

_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
_ERRORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Metrics:
    """Counted since the server has started; queue and store as they are when they are read."""

    def __init__(self, jobs: Jobs):
        self.registry = CollectorRegistry()
        self.registry.register(_States(jobs))
        self.videos = self._counter("videos", "Videos by what became of them.", "outcome")
        self.requests = self._counter("requests", "Requests by answer.", "method", "status")
        self.stage = self._histogram("stage_seconds", "Of a video's stages.", _BUCKETS, "stage")
        self.step = self._histogram("step_seconds", "Of steps by what they do.", _BUCKETS, "kind")
        self.compiling = self._counter("compile_seconds", "That videos waited for programs.")
        self.programs = self._counter("programs", "Videos whose programs were there.", "cache")
        about = "How far the time told after two steps was from the truth."
        self.eta = self._histogram("eta_error_ratio", about, _ERRORS)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"wanjax_{name}", about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        name = f"wanjax_{name}"
        return Histogram(name, about, labels, buckets=buckets, registry=self.registry)

    def made(self, video: Video, saving: float, warm: bool) -> None:
        """A video is there."""
        for stage, seconds in (video.timings.stages | {"save": saving}).items():
            self.stage.labels(stage).observe(seconds)
        for step, seconds in zip(video.plan.steps, video.timings.steps, strict=True):
            self.step.labels(_kind(step)).observe(seconds)
        self.compiling.inc(video.timings.compile)
        self.programs.labels("hit" if warm else "miss").inc()

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)


class _States(Collector):
    def __init__(self, jobs: Jobs):
        self._jobs = jobs

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("wanjax_jobs", "Videos by state.", labels=["state"])
        for state, count in self._jobs.counts().items():
            family.add_metric([state], count)
        yield family


def _kind(step: Step) -> str:
    if step.skipped:
        return "skipped"
    return "computed" if step.computed == len(step.actions) else "in part"
