"""The service's addresses: predictions of uploads and of streams, the page, and what a monitor asks for."""

import asyncio
import concurrent.futures
import contextlib
import importlib.resources
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException

from emoflax import __version__
from emoflax.errors import NotInstalled, UserError, WeightsUnavailable
from emoflax.inference import attention as attentions
from emoflax.inference.model import Model, Prediction
from emoflax.inference.recordings import Recording
from emoflax.inference.serve import answers, stream, uploads
from emoflax.inference.serve.answers import Refused
from emoflax.inference.serve.batching import Batcher, Busy
from emoflax.inference.serve.decoding import Decoders
from emoflax.inference.serve.metrics import Measured, Metrics
from emoflax.inference.serve.settings import Settings
from emoflax.inference.windows import Windows

_RETRY_AFTER_S = 1
_SCRIPTS = ("server.js", "pictures.js", "microphone.js", "page.js")
_PAGE = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css")}
_PAGE |= {f"/{name}": (name, "text/javascript") for name in _SCRIPTS}
_HEADERS = {
    "Content-Security-Policy":
        "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
}  # fmt: skip
_FORM = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["file"], "properties": {
        "file": {"type": "string", "format": "binary", "description": "a recording of any format that predict takes"},
        "text": {"type": "string", "description": "what is said in it, for models that take words"},
    }}}}}}  # fmt: skip
_PROBLEMS = {status: {"model": answers.Problem} for status in (400, 408, 413, 415, 422, 429, 503)}
Seconds = Annotated[float, Query(ge=0, le=3600, description="seconds; 0: off")]


class Service:
    """What the addresses share: the model, the threads at work for it, and what is under way."""

    def __init__(self, model: Model, settings: Settings):
        self.model, self.settings, self.under_way, self.open_streams = model, settings, 0, 0
        self.decoders = Decoders(settings)
        self.metrics = Metrics(lambda: self.batcher.held_s, lambda: self.under_way, lambda: self.decoders.restarts)
        self.batcher = Batcher(
            model, batch_ms=settings.batch_ms, batch_rows=settings.batch_rows, most_held_s=settings.most_held_s,
            on_batch=self.metrics.batch.observe,
        )  # fmt: skip
        self.streams = concurrent.futures.ThreadPoolExecutor(settings.most_streams, "stream")

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a prediction. Raises Busy if as many as may be are under way."""
        if self.under_way >= self.settings.most_requests:
            raise Busy
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def predict(
        self, content: bytes, name: str, text: str | None, cut: Windows
    ) -> tuple[Recording, list[Prediction], list[str]]:
        """The decoded upload, its rows, and sentences about them.

        Raises:
          UserError: it cannot be used.
          Refused, Busy: it is too much.
        """
        threads, takes_text = self.decoders.threads, self.model.takes_text
        loop = asyncio.get_running_loop()
        one = await loop.run_in_executor(threads, self.decoders.read, content, name, text, takes_text)
        self.metrics.audio.inc(one.seconds)
        if one.seconds > self.settings.longest_s:
            raise Refused(413, f"{name} lasts {one.seconds:.1f} s; at most {self.settings.longest_s:g} s are accepted")
        if (rows := len(cut.spans(len(one.samples), one.rate_hz))) > self.settings.most_rows:
            raise Refused(413, f"{name} has {rows} windows; at most {self.settings.most_rows}: choose a longer hop_s")
        made, said = await asyncio.wrap_future(self.batcher.submit(one, cut))
        return one, made, said

    async def attention(self, one: Recording) -> dict[str, Any] | None:
        """As `answers.Attention`; None of a model that has none."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self.decoders.threads, attentions.of_recording, self.model, one)
        if found is None:
            return None
        return {"start_s": round(found.start_s, 3), "hop_s": found.hop_s, "values": found.values.round(3).tolist()}

    def stop(self) -> None:
        self.batcher.stop()
        self.decoders.stop()
        self.streams.shutdown(wait=False, cancel_futures=True)

    def card(self) -> dict[str, Any]:
        """What /v1/model answers."""
        model, settings = self.model, self.settings
        alone = model.members[0].trained.description if len(model.members) == 1 else {}
        return {
            "name": model.name, "labels": list(model.labels),
            "trained_on": model.corpus, "notice": model.notice, "takes_text": model.takes_text,
            "calibrated": bool(model.index.get("calibration") or alone.get("calibration")),
            "unsure_below": model.least_confidence, "scores": model.index.get("scores"),
            "licences": model.index.get("licences", []), "largest_bytes": settings.most_bytes,
            "longest_s": settings.longest_s, "version": __version__,
        }  # fmt: skip


def create(model: Model, settings: Settings) -> FastAPI:
    """An application that serves a model. Its threads and decoding processes end with its lifespan."""
    service = Service(model, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(title="EmoFlax", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    _add_predictions(app, service)
    _add_page(app)
    _add_for_monitors(app, service)
    _add_problems(app, service)
    paths = frozenset({*_PAGE, "/v1/predict", "/v1/model", "/healthz", "/metrics"})
    app.add_middleware(Measured, metrics=service.metrics, paths=paths)
    return app


def _add_predictions(app: FastAPI, service: Service) -> None:
    settings = service.settings

    made_of = {200: {"model": answers.Answer, "content": {answers.CSV: {}}}, **_PROBLEMS}

    @app.post("/v1/predict", openapi_extra=_FORM, responses=made_of)
    async def predict(
        request: Request, window_s: Seconds = 0.0, hop_s: Seconds = 0.0, smooth_s: Seconds = 0.0,
        format: Annotated[Literal["json", "csv"] | None, Query(description="else by Accept")] = None,
        attention: Annotated[bool, Query(description="how much the model weighs each moment, if it does")] = False,
    ) -> Response:  # fmt: skip
        """Emotions of one recording; with window_s, of every window of it."""
        cut = Windows(window_s, hop_s, smooth_s)
        as_csv = format == "csv" or (format is None and answers.CSV in request.headers.get("accept", ""))
        with service.admitted():
            try:
                async with asyncio.timeout(settings.timeout_s):
                    content, name, text = await uploads.read(request, settings.most_bytes)
            except TimeoutError:
                raise Refused(408, f"the upload took longer than {settings.timeout_s:g} s") from None
            try:
                async with asyncio.timeout(settings.timeout_s):
                    one, rows, said = await service.predict(content, name, text, cut)
                    weighed = await service.attention(one) if attention and not as_csv else None
            except TimeoutError:
                raise Refused(
                    503, f"the prediction took longer than {settings.timeout_s:g} s", _RETRY_AFTER_S
                ) from None
        made = answers.answer(service.model, one, rows, said) | ({"attention": weighed} if attention else {})
        headers = {"Cache-Control": "no-store"}
        if as_csv:
            return Response(answers.as_csv(service.model.labels, made), media_type=answers.CSV, headers=headers)
        return JSONResponse(made, headers=headers)

    @app.websocket("/v1/stream")
    async def stream_(socket: WebSocket, rate_hz: int = 16_000, window_s: float = 3.0, hop_s: float = 1.0) -> None:
        if service.open_streams >= settings.most_streams:
            await stream.refuse(socket, f"{settings.most_streams} streams are open; try again later", later=True)
            return
        service.open_streams += 1
        try:
            with service.metrics.streams.track_inprogress():
                cut = Windows(window_s, hop_s)
                stream.check(rate_hz, cut, settings)
                await stream.run(socket, service.model, rate_hz, cut, settings, service.streams)
        except UserError as error:
            await stream.refuse(socket, answers.sentence_of(error))
        finally:
            service.open_streams -= 1


def _add_page(app: FastAPI) -> None:
    """The page's files, read once."""
    folder = importlib.resources.files("emoflax.inference.serve") / "page"
    for path, (name, kind) in _PAGE.items():
        content = (folder / name).read_bytes()

        def send(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind, headers=_HEADERS)

        app.add_route(path, lambda request, send=send: send(), include_in_schema=False)


def _add_for_monitors(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model")
    async def model() -> dict[str, Any]:
        """Of the model: emotions, training corpus, scores, licences; and the largest upload."""
        return service.card()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers while the service accepts requests."""
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> RedirectResponse:
        return RedirectResponse("/openapi.json")  # pages that draw it come from foreign hosts


def _add_problems(app: FastAPI, service: Service) -> None:
    """Every error is one sentence in JSON."""

    def problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return problem(error.status, str(error), error.headers)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        await uploads.drain(request, service.settings.most_bytes)
        return problem(429, "too many predictions are under way; try again later", {"Retry-After": str(_RETRY_AFTER_S)})

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        if isinstance(error, WeightsUnavailable):
            return problem(503, answers.sentence_of(error))
        return problem(415 if isinstance(error, NotInstalled) else 422, answers.sentence_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return problem(400, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        return problem(
            error.status_code, f"{error.detail}: {request.method} {request.url.path}", dict(error.headers or {})
        )

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return problem(500, f"the service failed ({type(error).__name__}); its log has more")
