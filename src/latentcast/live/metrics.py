"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

_MSE = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 2.0)
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)


class Metrics:
    """Counters, gauges and histograms in a registry of their own.

    Example:
        >>> metrics = Metrics()
        >>> metrics.refusals.labels("busy").inc()
        >>> b'latentcast_refusals_total{code="busy"} 1.0' in metrics.page()
        True
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Gauge(
            "latentcast_sessions",
            "Sessions by state: connected, or waiting for their device to come back.",
            ["state"],
            registry=self.registry,
        )
        self.ended = self._counter("ended_sessions", "Sessions that have ended, by how.", "outcome")
        self.refusals = self._counter("refusals", "Requests that were refused, by reason.", "code")
        self.resumed = self._counter("resumed_sessions", "Sessions that a device came back to.")
        self.deadlines = self._counter("deadlines", "Deadlines that came, by whether they were met.", "met")
        self.sent_bits = self._counter("sent_bits", "Bits of refinements sent to devices.")
        self.images = self._counter("images", "Pictures asked for by the images API, by outcome.", "outcome")
        self.predicted_mse = self._histogram(
            "predicted_mse", "Expected error per number of the latent held at the deadline.", _MSE
        )
        self.reached_mse = self._histogram(
            "reached_mse", "True error per number of the latent held at the deadline.", _MSE
        )
        self.predicted_seconds = self._histogram(
            "predicted_generation_seconds",
            "Time to the last denoising step as foreseen at admission.",
            _SECONDS,
        )
        self.reached_seconds = self._histogram(
            "reached_generation_seconds", "Time from admission to the last denoising step.", _SECONDS
        )
        self.packets = self._counter("packets", "Packets that devices have acknowledged.")
        self.packets_in_time = self._counter(
            "packets_within_prediction", "Those that took no longer than the latency law's quantile at 0.9."
        )
        self.predicted_latency = self._counter(
            "predicted_packet_seconds", "Sum of the packets' predicted latencies."
        )
        self.reached_latency = self._counter("reached_packet_seconds", "Sum of the packets' latencies.")
        self.step_seconds = self._histogram("step_seconds", "Time of a call of the denoiser.", _SECONDS)
        self.batch_size = self._histogram("batch_size", "Requests in a call of the denoiser.", _BATCHES)
        for state in ("connected", "waiting"):
            self.sessions.labels(state)
        for met in ("yes", "no"):
            self.deadlines.labels(met)

    def call(self, size: int, seconds: float) -> None:
        """Note a call of the denoiser; as `Engine` tells it, from its thread."""
        self.batch_size.observe(size)
        self.step_seconds.observe(seconds)

    def page(self) -> bytes:
        """All of it in the text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"latentcast_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"latentcast_{name}", about, registry=self.registry, buckets=buckets)
