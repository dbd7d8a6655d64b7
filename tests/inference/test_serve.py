"""The service, as a process: answers are the model's own, damage is refused, nothing is kept or lost."""

import asyncio
import concurrent.futures
import csv
import io
import json
import random
import signal
import socket
import time

import damaged_files
import numpy as np
import pytest
import random_bundle
import service as running
import soundfile
from websockets.sync import client

import emoflax
from emoflax.errors import UserError
from emoflax.inference import explain, recordings
from emoflax.inference.serve import app, command, settings
from emoflax.inference.utterances import Gaps

LIMITS = "--limits=largest_mb=2.5,longest_s=70,most_requests=12,most_streams=2,timeout_s=60"
UPLOADS = 200
RATE_HZ = damaged_files.RATE_HZ


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return random_bundle.write(tmp_path_factory.mktemp("bundle") / "bundle", **{"model.pooling": "attention"})


@pytest.fixture(scope="module")
def model(bundle):
    return emoflax.load(bundle)


@pytest.fixture(scope="module")
def service(bundle, tmp_path_factory):
    with running.started(tmp_path_factory.mktemp("service"), bundle, LIMITS) as one:
        yield one


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return damaged_files.write_recordings(tmp_path_factory.mktemp("whole"))


def wav(seconds: float, seed: int = 0) -> bytes:
    file = io.BytesIO()
    samples = damaged_files.voice(seconds)
    samples += 0.02 * np.random.default_rng(seed).standard_normal(len(samples)).astype(np.float32)
    soundfile.write(file, samples, RATE_HZ, format="WAV", subtype="PCM_16")
    return file.getvalue()


def read(content: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(content), dtype="int16")[0]


def same(row: dict, own) -> bool:
    """Whether a row is what the model itself predicts."""
    return row["probabilities"] == pytest.approx(dict(own.probabilities), abs=2e-6) and row["start_s"] == pytest.approx(
        own.start_s, abs=1e-3
    )


def test_every_format_gets_the_models_own_answer_and_a_notice_where_it_is_unlike_the_training_clips(
    service, model, whole
):
    for path in whole:
        status, headers, body = service.post(path.read_bytes(), path.name)
        answer = json.loads(body)
        assert status == 200 and answer["file"] == path.name and headers["Cache-Control"] == "no-store", body
        assert answer["duration_s"] == pytest.approx(damaged_files.SECONDS, abs=0.12)
        (own,) = model.predict(path)
        assert same(answer["predictions"][0], own) and answer["predictions"][0]["emotion"] == own.label
        assert answer["notices"] == list(own.notices)
    (notice,) = json.loads(service.post(wav(7.0))[2])["notices"]
    assert notice == "7.0 s long (trained on 1.0 to 5.0)"


def test_attention_comes_with_the_answer_if_it_is_asked_for_in_the_recordings_own_time(service, model):
    silence = np.zeros(RATE_HZ, np.float32)
    samples = np.concatenate([silence, damaged_files.voice(2.0), silence])
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format="WAV", subtype="PCM_16")
    assert "attention" not in json.loads(service.post(file.getvalue())[2])
    told = json.loads(service.post(file.getvalue(), query="?attention=true")[2])["attention"]
    assert told["start_s"] == pytest.approx(1.0, abs=0.1)
    assert told["hop_s"] * len(told["values"]) == pytest.approx(2.0, abs=0.2)
    member, utterances, *_ = next(model.features([recordings.of_array(samples, RATE_HZ, "a")], Gaps()))
    ((curve, _),) = explain.attentions(member.trained, utterances)
    assert np.ptp(told["values"]) > 0.01
    np.testing.assert_allclose(told["values"], curve.mean(1), atol=2e-3)


def test_rows_over_time_are_the_models_own_as_json_and_as_csv(service, model):
    quiet = np.zeros(2 * RATE_HZ, np.int16)
    sound = np.concatenate([read(wav(2.0)), quiet])
    file = io.BytesIO()
    soundfile.write(file, sound, RATE_HZ, format="FLAC", subtype="PCM_16")
    query = "?window_s=1&hop_s=0.5&smooth_s=1"
    rows = running.predictions(service.post(file.getvalue(), "=a.flac", query)[2])
    own = model.predict(sound, RATE_HZ, window_s=1.0, hop_s=0.5, smooth_s=1.0)
    assert len(rows) == len(own) == 7 and all(map(same, rows, own))
    assert [row["silent"] for row in rows] == [one.silent for one in own] and rows[-1]["emotion"] is None
    for asked in ({"query": query + "&format=csv"}, {"query": query, "headers": {"Accept": "text/csv"}}):
        _, headers, body = service.post(file.getvalue(), "=a.flac", **asked)
        lines = list(csv.DictReader(io.StringIO(body.decode())))
        assert headers["Content-Type"].startswith("text/csv") and lines[0]["file"] == "'=a.flac"  # no formula
        for line, row in zip(lines, rows, strict=True):
            assert (line["emotion"] or None, line["silent"]) == (row["emotion"], str(int(row["silent"])))
            assert {k: float(line[k]) for k in row["probabilities"]} == row["probabilities"]


@pytest.mark.parametrize(
    ("content", "name", "query", "status", "words"),
    [(b"", "a.wav", "", 422, "a.wav is empty"), (b"no sound", "a.wav", "", 422, "not sound that can be decoded"),
     (wav(1)[:9000], "../b/a.wav", "", 422, "^a.wav is truncated"), (wav(1), "a.wav", "?window_s=x", 400, "window_s: "),
     (wav(1), "a.wav", "?hop_s=1", 422, "give window_s"), (wav(1), "a.wav", "?window_s=-1", 400, "window_s: "),
     (wav(1), "a.wav", "?format=xml", 400, "format: "), (bytes(2_600_000), "a.wav", "", 413, "2.5 MB"),
     (wav(71), "a.wav", "", 413, "lasts 71.0 s"), (wav(60), "a.wav", "?window_s=0.1&hop_s=0.01", 413, "5991 windows")],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_sentence(service, content, name, query, status, words):
    got, headers, body = service.post(content, name, query)
    assert got == status and headers["Content-Type"] == "application/json"
    sentence = json.loads(body)["error"]
    assert running.re.search(words, sentence) and "corpus" not in sentence and "/proc" not in sentence


def test_requests_that_are_none_are_refused_too(service):
    for body, headers, status in (
        (b"x", {"Content-Type": "text/plain"}, 415), (b"x", {}, 400), (running.form(b"", "")[:-20], {}, 400),
        (b"--a\r\n", {"Content-Type": "multipart/form-data"}, 400),
        (running.form(b"", "a.wav").replace(b'"file"', b'"other"'), {}, 400),
    ):  # fmt: skip
        got, _, answer = service.send(body, "", headers)
        assert got == status and json.loads(answer)["error"], answer
    assert service.get("nothing")[0] == 404 and service.get("v1/predict")[0] == 405


def test_what_monitors_and_programs_ask_for_is_there(service):
    assert json.loads(service.get("healthz")[2])["status"] == "ok"
    assert {"/v1/predict", "/v1/model", "/healthz", "/metrics"} <= set(json.loads(service.get("docs")[2])["paths"])
    card = json.loads(service.get("v1/model")[2])
    assert card["labels"] == list(random_bundle.LABELS)
    assert not card["calibrated"] and card["largest_bytes"] == 2_500_000
    before = service.metric('emoflax_requests_total{path="other",status="404"}')
    service.get("a/path/that/would/be/a/label")
    assert service.metric('emoflax_requests_total{path="other",status="404"}') == before + 1


def test_many_clients_get_their_own_answers_in_batches_and_those_beyond_the_limit_are_told_to_come_back(service, model):
    contents = [wav(0.5 + 0.1 * number, number) for number in range(30)]
    own = model.predict([read(content) for content in contents], RATE_HZ)
    batches = service.metric("emoflax_batch_recordings_count")

    def post(number: int):
        status, headers, body = service.post(contents[number])
        assert status == 200 or (status == 429 and headers["Retry-After"] == "1" and json.loads(body)["error"])
        return status == 200 and same(running.predictions(body)[0], own[number])

    with concurrent.futures.ThreadPoolExecutor(10) as clients:  # fewer than the limit of 12
        assert all(clients.map(post, range(30)))
    assert service.metric("emoflax_batch_recordings_count") - batches < 30
    slow = wav(30)
    with concurrent.futures.ThreadPoolExecutor(30) as clients:
        under_way = [clients.submit(service.post, slow, query="?window_s=1&hop_s=1") for _ in range(12)]
        running.wait_until(lambda: service.metric("emoflax_requests_under_way") == 12)
        assert not any(clients.map(post, range(12)))
        assert all(future.result()[0] == 200 for future in under_way)


def test_a_stream_gives_the_windows_of_the_whole(service, model):
    sound = read(wav(4.3))
    own = model.predict(sound, RATE_HZ, window_s=1.5, hop_s=0.5)
    with client.connect(f"ws{service.url[4:]}v1/stream?rate_hz={RATE_HZ}&window_s=1.5&hop_s=0.5") as one:
        for begin in range(0, len(sound), 3_000):
            one.send(sound[begin : begin + 3_000].tobytes())
        one.send("end")
        *rows, end = map(json.loads, one)
    assert end == {"end": True} and len(rows) == len(own) and all(map(same, rows, own))


def test_streams_that_cannot_be_end_with_a_sentence_and_one_that_breaks_off_makes_room(service):
    address = f"ws{service.url[4:]}v1/stream"
    for query, message, words in (("?rate_hz=1", b"", "rate_hz=1"), ("?window_s=0.01", b"", "window_s"),
                                  ("?hop_s=9", b"", "hop_s"), ("", b"odd", "odd number of bytes")):  # fmt: skip
        with client.connect(address + query) as one:
            if message:
                one.send(message)
            assert words in json.loads(one.recv())["error"]
    with client.connect(address), client.connect(address), client.connect(address) as third:
        assert "2 streams are open" in json.loads(third.recv())["error"]
    running.wait_until(lambda: service.metric("emoflax_streams") == 0)


def test_damaged_uploads_end_nothing_and_memory_does_not_grow(service, whole):
    contents, statuses = [path.read_bytes() for path in whole], {}
    for number in range(UPLOADS):
        rng = random.Random(number)
        place = rng.randrange(len(whole))
        damaged = damaged_files.mutate(contents[place], rng, contents)
        body = running.form(damaged, whole[place].name)
        if number % 4 == 0:  # of the form, too
            body = damaged_files.mutate(body, rng, contents)
        status, _, answer = service.send(body)
        statuses[status] = statuses.get(status, 0) + 1
        assert status == 200 or (status in (400, 413, 422) and json.loads(answer)["error"]), (number, status, answer)
        if number == UPLOADS // 2:
            half = service.memory_bytes()
    print(statuses, "memory:", half, service.memory_bytes())
    assert service.memory_bytes() < half + 30e6
    assert service.post(contents[0])[0] == 200


def test_nothing_of_any_upload_was_written_or_logged(service):
    """Of all tests above, uploads beyond 1 MB included, at which Starlette would begin a temporary file."""
    assert service.post(wav(60), "secret.wav")[0] == 200
    assert service.written.read_text() == ""
    assert "wav" not in service.log.read_text() and "Traceback" not in service.log.read_text()


def test_an_upload_that_stalls_and_a_prediction_that_takes_too_long_are_given_up(bundle, monkeypatch):
    model, body = emoflax.load(bundle), running.form(wav(1), "a.wav")
    monkeypatch.setattr(model, "score", lambda *_: time.sleep(1.5))

    async def status_of(application, content: bytes, more: bool) -> int:
        kind = f"multipart/form-data; boundary={running.BOUNDARY}".encode()
        scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "http_version": "1.1",
                 "headers": [(b"content-type", kind)]}  # fmt: skip
        parts, sent = [{"type": "http.request", "body": content, "more_body": more}], []

        async def receive():
            return parts.pop() if parts else await asyncio.sleep(30)

        async def send(message):
            sent.append(message)

        await application(scope, receive, send)
        return sent[0]["status"]

    async def both() -> list[int]:
        application = app.create(model, settings.Settings(timeout_s=1.0, decoders=1))
        async with application.router.lifespan_context(application):
            return [await status_of(application, body[:5000], True), await status_of(application, body, False)]

    assert asyncio.run(both()) == [408, 503]


@pytest.mark.parametrize(
    ("given", "words"),
    [(["longest=3"], "there is no limit 'longest'; there are largest_mb"),
     (["batch_rows=1.5"], "'1.5' is no whole number"), (["batch_rows=0"], "from 1 to"),
     (["timeout_s=nan"], "from 1 to")],
)  # fmt: skip
def test_limits_that_cannot_be_are_refused_in_one_sentence(given, words):
    assert settings.parsed(["longest_s=10", "batch_ms=0"]) == settings.Settings(longest_s=10.0, batch_ms=0.0)
    with pytest.raises(UserError, match=words):
        settings.parsed(given)


def test_a_service_without_a_model_or_an_address_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="--bundle=BUNDLE"):
        command.run(None, "127.0.0.1", 0, settings.Settings())
    with pytest.raises(UserError, match="no trained model in nowhere"):
        command.ready("nowhere")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="choose another --port"):
            command.bind("127.0.0.1", taken.getsockname()[1])


def test_sigterm_finishes_what_is_under_way(service):
    """The last test here: it ends the service."""
    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        answers = [clients.submit(service.post, wav(30), query="?window_s=0.5&hop_s=0.1") for _ in range(4)]
        running.wait_until(lambda: service.metric("emoflax_requests_under_way") == 4)
        service.process.send_signal(signal.SIGTERM)
        made = [(status, len(running.predictions(body))) for status, _, body in (one.result() for one in answers)]
    assert made == [(200, 296)] * 4 and service.process.wait(60) == 0
