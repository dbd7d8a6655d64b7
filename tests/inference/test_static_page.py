"""--mode=export --format=page: a folder that a server of files shows, with the model in the browser."""

import functools
import http.server
import os
import pathlib
import re
import shutil
import threading
import urllib.parse

import damaged_files
import numpy as np
import pytest
import random_bundle
import soundfile

import emoflax
from emoflax.errors import UserError
from emoflax.inference import export, static_page

RUNTIME = os.environ.get("ONNXRUNTIME_WEB", "")  # the unpacked npm package
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return random_bundle.write(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def runtime(tmp_path):
    """A package whose files are empty: enough to write the folder."""
    (tmp_path / "package" / "dist").mkdir(parents=True)
    for name in static_page._RUNTIME:
        (tmp_path / "package" / "dist" / name).write_bytes(b"")
    return tmp_path / "package"


def test_the_folder_holds_everything_that_its_page_asks_for_and_may_be_written_again(bundle, runtime, tmp_path, capsys):
    for _ in range(2):
        export.run(str(bundle), "page", "waveform", str(tmp_path / "page"), str(runtime))
    assert "python -m http.server" in capsys.readouterr().out
    index = (tmp_path / "page" / "index.html").read_text()
    asked = re.findall(r'(?:src|href)="([^":]+)"', index)
    assert {"page.css", "page.js", "pictures.js", "microphone.js", "local.js", "ort.wasm.min.js"} == set(asked)
    made = {path.name for path in (tmp_path / "page").iterdir()}
    assert made == {*asked, *static_page._RUNTIME, "index.html", "model.onnx", "model.onnx.json"}


@pytest.mark.parametrize("given", [None, "nowhere"])
def test_without_the_package_the_sentence_says_how_to_get_it_and_nothing_is_written(bundle, tmp_path, given):
    with pytest.raises(UserError, match="npm pack onnxruntime-web"):
        export.run(str(bundle), "page", "waveform", str(tmp_path / "page"), given)
    assert not (tmp_path / "page").exists()


def test_what_no_page_can_be_made_of_leaves_no_folder(runtime, tmp_path):
    unlike = random_bundle.write(tmp_path / "unlike", **{"evaluate.speeds": (0.9, 1.1)})
    for taken, words in (("waveform", "test-time"), ("features", "--export_input=features")):
        with pytest.raises(UserError, match=words):
            export.run(str(unlike), "page", taken, str(tmp_path / "page"), str(runtime))
        assert not (tmp_path / "page").exists()


def test_a_folder_of_other_files_is_left_alone(bundle, runtime, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        export.run(str(bundle), "page", "waveform", str(tmp_path / "mine"), str(runtime))
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"


@pytest.fixture(scope="module")
def shown(bundle, tmp_path_factory):
    """(A browser's page that shows the folder, a voice); whatever is asked for comes from the folder's server."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: tests/requirements-browser.txt"
    )
    if not CHROMIUM:
        pytest.skip("there is no Chromium: apt-get install chromium")
    if not RUNTIME:
        pytest.skip("onnxruntime-web is not there: npm pack onnxruntime-web, unpack it, ONNXRUNTIME_WEB=package")
    folder, voice = tmp_path_factory.mktemp("static") / "page", tmp_path_factory.mktemp("voice") / "voice.wav"
    soundfile.write(voice, damaged_files.voice(4.0), damaged_files.RATE_HZ, subtype="PCM_16")
    export.run(str(bundle), "page", "waveform", str(folder), RUNTIME)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
             f"--use-file-for-fake-audio-capture={voice}"]  # fmt: skip
    with (
        sync_api.sync_playwright() as tool,
        tool.chromium.launch(executable_path=CHROMIUM, args=flags) as browser,
        browser.new_context() as context,
    ):
        page, asked, complaints = context.new_page(), [], []
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        sync_api.expect(page.locator("#model")).to_contain_text("angry, calm, sad", timeout=60_000)
        page.expect_text = lambda selector, text: sync_api.expect(page.locator(selector)).to_contain_text(
            text, timeout=60_000
        )
        yield page, voice
        server.shutdown()
        assert not complaints
        hosts = {urllib.parse.urlsplit(url.removeprefix("blob:")).hostname for url in asked}
        assert hosts == {"127.0.0.1"}


def probabilities(page, selector):
    cells = page.locator(f"{selector} tbody tr td:nth-child(2)").all_inner_texts()
    return np.array([float(cell.removesuffix(" %")) / 100 for cell in cells])


def test_offline_an_upload_gets_the_bundles_own_probabilities_as_a_whole_and_over_time(shown, bundle):
    page, voice = shown
    page.context.set_offline(True)  # the page has all that it needs
    page.set_input_files("#file", voice)
    page.expect_text("#status", "voice.wav, 4.0 s: ")
    model = emoflax.load(bundle)
    (whole,) = model.predict(voice)
    np.testing.assert_allclose(probabilities(page, "#bars"), list(whole.probabilities.values()), atol=1e-3)
    page.locator("summary").click()
    rows = [row.split("\t") for row in page.locator("#rows").inner_text().splitlines()[1:]]
    wanted = model.predict(voice, window_s=2.0, hop_s=0.5)
    assert [row[2] for row in rows] == [one.label or "silence" for one in wanted]
    for row, one in zip(rows, wanted, strict=True):
        assert float(row[0]) == pytest.approx(one.start_s, abs=0.01)
        if one.label:
            np.testing.assert_allclose([float(cell) for cell in row[3:]], list(one.probabilities.values()), atol=0.006)
    assert page.locator("#attention").is_hidden()
    page.context.set_offline(False)


def test_a_recording_at_another_rate_gets_what_the_bundle_makes_of_it(shown, bundle, tmp_path):
    page, _ = shown
    for rate_hz in (48_000, 44_100):
        samples = np.random.default_rng(0).normal(0, 0.1, 2 * rate_hz) * np.hanning(2 * rate_hz)
        soundfile.write(tmp_path / f"{rate_hz}.wav", samples, rate_hz, subtype="PCM_16")
        page.set_input_files("#file", tmp_path / f"{rate_hz}.wav")
        page.expect_text("#status", f"{rate_hz}.wav, 2.0 s: ")
        (whole,) = emoflax.load(bundle).predict(tmp_path / f"{rate_hz}.wav")
        np.testing.assert_allclose(probabilities(page, "#bars"), list(whole.probabilities.values()), atol=0.01)


def test_a_file_without_sound_gives_a_sentence_and_a_recording_is_predicted_live_and_whole(shown, tmp_path):
    page, _ = shown
    (tmp_path / "bad.wav").write_text("no sound")
    page.set_input_files("#file", tmp_path / "bad.wav")
    page.expect_text("#error", "bad.wav cannot be decoded by this browser")
    page.locator("#record").focus()
    page.keyboard.press("Enter")
    page.expect_text("#live", re.compile(r"Live: (angry|calm|sad|silence)"))
    page.keyboard.press("Space")
    page.expect_text("#status", re.compile(r"recording\.wav, \d+\.\d s: (angry|calm|sad)"))
    assert pathlib.Path(CHROMIUM).exists() and page.locator("#error").inner_text() == ""
