"""What /metrics shows, in Prometheus' format: how many, how long, how much waits; nothing about any recording."""

import time
from collections.abc import Callable

import prometheus_client
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self, held_s: Callable[[], float], under_way: Callable[[], int], restarts: Callable[[], int]):
        self.registry = prometheus_client.CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = prometheus_client.Counter(
            "emoflax_requests", "Requests by path and status", ["path", "status"], **own
        )
        self.seconds = prometheus_client.Histogram(
            "emoflax_request_seconds", "From the request's head to the answer's end", ["path"], buckets=SECONDS, **own
        )
        self.batch = prometheus_client.Histogram(
            "emoflax_batch_recordings", "Recordings of a batch", buckets=(1, 2, 4, 8, 16, 32), **own
        )
        self.audio = prometheus_client.Counter("emoflax_audio_seconds", "Seconds of sound that were decoded", **own)
        self.streams = prometheus_client.Gauge("emoflax_streams", "Streams that are open", **own)
        for name, what, value in (
            ("emoflax_requests_under_way", "Predictions under way", under_way),
            ("emoflax_held_audio_seconds", "Seconds of sound that wait for the model", held_s),
            ("emoflax_decoder_restarts", "Recordings that ended a decoding process", restarts),
        ):
            prometheus_client.Gauge(name, what, **own).set_function(value)

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self.registry)


class Measured:
    """ASGI middleware that counts requests and takes their times; unknown paths share one name."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        path = scope["path"] if scope["path"] in self._paths else "other"
        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - begin)
