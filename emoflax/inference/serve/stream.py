"""/v1/stream: 16-bit PCM in over a WebSocket, predictions of windows out while the sound arrives."""

import asyncio
import concurrent.futures
import contextlib
import json
import queue
from collections.abc import Iterator

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from emoflax.errors import UserError
from emoflax.features.sound_file import HIGHEST_RATE_HZ, LOWEST_RATE_HZ
from emoflax.inference.model import Model
from emoflax.inference.serve import answers
from emoflax.inference.serve.settings import Settings
from emoflax.inference.windows import Windows

_WAITING = 8  # chunks between a client and the model; then the client waits
_POLICY, _TRY_LATER = 1008, 1013  # codes of a WebSocket's end


def check(rate_hz: int, cut: Windows, settings: Settings) -> None:
    """Raises UserError for a stream that cannot be."""
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        raise UserError(f"rate_hz={rate_hz}: it must be from {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}")
    if not 0.1 <= cut.window_s <= min(60.0, settings.longest_s) or cut.step_s < 0.1:
        raise UserError("window_s must be from 0.1 to 60 and hop_s at least 0.1")


async def refuse(socket: WebSocket, sentence: str, *, later: bool = False) -> None:
    """Sends the sentence and ends the stream."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        if socket.client_state is WebSocketState.CONNECTING:
            await socket.accept()
        await socket.send_text(json.dumps({"error": sentence}))
        await socket.close(_TRY_LATER if later else _POLICY)


async def run(
    socket: WebSocket, model: Model, rate_hz: int, cut: Windows, settings: Settings,
    threads: concurrent.futures.Executor,
) -> None:  # fmt: skip
    """Serves one stream to its end: a text message from the client, or its disconnection."""
    await socket.accept()
    chunks: queue.Queue[bytes | None] = queue.Queue(_WAITING)
    rows: asyncio.Queue[dict | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def arrays() -> Iterator[np.ndarray]:
        while (chunk := chunks.get()) is not None:
            yield np.frombuffer(chunk, "<i2")

    def predict() -> None:
        try:
            for row in model.predict_stream(arrays(), rate_hz, window_s=cut.window_s, hop_s=cut.hop_s):
                loop.call_soon_threadsafe(rows.put_nowait, answers.row_of(row))
        finally:
            loop.call_soon_threadsafe(rows.put_nowait, None)

    predicting = asyncio.wrap_future(threads.submit(predict))
    sending = asyncio.create_task(_send(socket, rows))
    try:
        most_samples = round(settings.longest_stream_s * rate_hz)
        await _receive(socket, chunks, predicting, most_samples, settings.timeout_s)
        await _put(chunks, None, predicting)
        await predicting
        await sending
        await socket.send_text(json.dumps({"end": True}))
        await socket.close()
    except WebSocketDisconnect:
        pass
    except UserError as error:
        await refuse(socket, answers.sentence_of(error))
    finally:
        sending.cancel()
        if not predicting.done():
            while not chunks.empty():
                chunks.get_nowait()
            chunks.put_nowait(None)


async def _send(socket: WebSocket, rows: "asyncio.Queue[dict | None]") -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while (row := await rows.get()) is not None:
            await socket.send_text(json.dumps(row))


async def _receive(
    socket: WebSocket, chunks: "queue.Queue[bytes | None]", predicting: asyncio.Future, most_samples: int,
    timeout_s: float,
) -> None:  # fmt: skip
    """Passes chunks on until the client sends a text, or `predicting` has failed.

    Raises:
      UserError: no 16-bit samples, too many of them, or none for too long.
      WebSocketDisconnect: the client is gone.
    """
    samples = 0
    while not predicting.done():
        try:
            message = await asyncio.wait_for(socket.receive(), timeout_s)
        except TimeoutError:
            raise UserError(f"no sound came for {timeout_s:g} s") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        if (chunk := message.get("bytes")) is None:
            return
        samples += len(chunk) // 2
        if len(chunk) % 2:
            raise UserError("a message has an odd number of bytes; send 16-bit samples, two bytes each")
        if samples > most_samples:
            raise UserError("the stream has become too long; begin a new one")
        await _put(chunks, chunk, predicting)


async def _put(chunks: "queue.Queue[bytes | None]", chunk: bytes | None, predicting: asyncio.Future) -> None:
    """Waits, without holding up others, for the model to have room; drops the chunk if it has failed."""
    while chunks.full() and not predicting.done():
        await asyncio.sleep(0.01)
    with contextlib.suppress(queue.Full):
        chunks.put_nowait(chunk)
