"""The page, in headless Chromium: upload, record and stream, errors, no network, keyboard."""

import pathlib
import re
import shutil
import urllib.parse

import damaged_files
import pytest
import random_bundle
import service as running
import soundfile

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: tests/requirements-browser.txt"
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium")
PAGE = pathlib.Path(__file__).parents[2] / "emoflax" / "inference" / "serve" / "page"


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    soundfile.write(path, damaged_files.voice(4.0), damaged_files.RATE_HZ, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    bundle = random_bundle.write(tmp_path_factory.mktemp("bundle") / "bundle")
    with running.started(tmp_path_factory.mktemp("service"), bundle, "--limits=largest_mb=1") as one:
        yield one


@pytest.fixture(scope="module")
def chromium(voice):
    """A browser whose microphone is a file."""
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
             f"--use-file-for-fake-audio-capture={voice}"]  # fmt: skip
    with sync_api.sync_playwright() as tool, tool.chromium.launch(executable_path=CHROMIUM, args=flags) as browser:
        yield browser


@pytest.fixture
def page(chromium, service):
    """The page, opened; what its console says and whom it asks is checked at the end."""
    with chromium.new_context() as context:
        one, asked, complaints = context.new_page(), [], []
        one.set_default_timeout(60_000)
        one.on("request", lambda request: asked.append(request.url))
        one.on("pageerror", lambda error: complaints.append(str(error)))
        one.goto(service.url)
        sync_api.expect(one.locator("#model")).to_contain_text("angry, calm, sad")
        yield one
        assert not complaints
        hosts = {urllib.parse.urlsplit(url.removeprefix("blob:")).hostname for url in asked}
        assert hosts == {urllib.parse.urlsplit(service.url).hostname}


@pytest.fixture(scope="module")
def attentive(tmp_path_factory):
    """A service of a model with attention pooling."""
    fields = {"model.audio": "attention_cnn", "model.pooling": "attention"}
    bundle = random_bundle.write(tmp_path_factory.mktemp("attentive") / "bundle", **fields)
    with running.started(tmp_path_factory.mktemp("attentive_service"), bundle) as one:
        yield one


def test_attention_is_drawn_where_the_model_has_it_and_told_in_words(page, attentive, voice):
    page.set_input_files("#file", voice)
    expect_text(page, "#status", "voice.wav, 4.0 s: ")
    assert page.locator("#attention").is_hidden()
    page.goto(attentive.url)
    page.set_input_files("#file", voice)
    expect_text(page, "#status", "voice.wav, 4.0 s: ")
    assert inked(page, "#attention") > 0.1
    told = page.locator("#attention").get_attribute("aria-label")
    assert re.fullmatch(r"Attention: the model weighs \d\.\d to \d\.\d s most, up to \d+\.\d times the mean", told)


def expect_text(page, selector: str, text: str | re.Pattern) -> None:
    sync_api.expect(page.locator(selector)).to_contain_text(text, timeout=60_000)


def inked(page, selector: str) -> float:
    """The share of a canvas's points that are drawn on."""
    return page.evaluate(
        """(selector) => {
             const canvas = document.querySelector(selector);
             const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
             return data.filter((value, i) => i % 4 === 3 && value).length / (data.length / 4);
           }""",
        selector,
    )


def test_an_upload_is_drawn_predicted_and_compared_with_the_training_clips(page, service, voice):
    page.set_input_files("#file", voice)
    expect_text(page, "#status", "voice.wav, 4.0 s: ")
    row = running.predictions(service.post(voice.read_bytes())[2])[0]
    percent = round(100 * row["probabilities"][row["emotion"]])
    expect_text(page, "#headline", f"{row['emotion']}, {percent} %")
    expect_text(page, "#confidence", "Not calibrated")
    assert page.locator("#bars tbody tr").count() == 3 and page.locator("#rows tr").count() == 1 + 5
    assert inked(page, "#wave") > 0.05 and inked(page, "#spectrogram") > 0.5 and inked(page, "#over-time") > 0.5
    assert page.locator("#player").evaluate("async (player) => { await player.play(); return player.duration; }") == 4
    assert page.locator("#notices").is_hidden()
    page.select_option("#window", "1")
    with page.expect_file_chooser() as chooser:
        page.click("label[for=file]")
    chooser.value.set_files(voice)
    sync_api.expect(page.locator("#rows tr")).to_have_count(1 + 13)


def test_a_recording_shows_probabilities_while_it_lasts_and_all_of_it_afterwards(page):
    page.click("#record")
    expect_text(page, "#live", re.compile(r"Live: (angry|calm|sad), \d+ %"))
    expect_text(page, "#status", "Press Stop")
    page.click("#record")
    expect_text(page, "#status", re.compile(r"recording\.wav, \d+\.\d s: (angry|calm|sad)"))
    assert page.locator("#live").is_hidden() and page.locator("#record").inner_text() == "Record"
    assert inked(page, "#spectrogram") > 0.5


def test_a_bad_file_and_a_large_one_give_one_sentence_and_the_next_file_works(page, voice, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound")
    page.set_input_files("#file", tmp_path / "bad.wav")
    expect_text(page, "#error", "bad.wav is not sound that can be decoded")
    assert page.locator("#result").is_hidden() and page.locator("#status").inner_text() == ""
    (tmp_path / "large.wav").write_bytes(bytes(1_100_000))
    page.set_input_files("#file", tmp_path / "large.wav")
    expect_text(page, "#error", "large.wav has 1.1 MB; the server accepts 1 MB")
    page.set_input_files("#file", voice)
    expect_text(page, "#status", "voice.wav, 4.0 s: ")
    assert page.locator("#error").inner_text() == ""


def test_without_a_network_the_page_says_so_and_goes_on_when_it_is_back(page, voice):
    page.context.set_offline(True)
    page.set_input_files("#file", voice)
    expect_text(page, "#error", "The server cannot be reached")
    page.context.set_offline(False)
    page.set_input_files("#file", voice)
    expect_text(page, "#status", "voice.wav, 4.0 s: ")


def test_a_format_that_the_browser_cannot_draw_is_predicted_all_the_same(page, tmp_path):
    soundfile.write(tmp_path / "voice.w64", damaged_files.voice(1.0), damaged_files.RATE_HZ, subtype="PCM_16")
    page.set_input_files("#file", tmp_path / "voice.w64")
    expect_text(page, "#status", re.compile(r"voice\.w64, 1\.0 s: .* cannot draw or play this format"))
    assert page.locator("#wave").is_hidden() and inked(page, "#over-time") > 0.5


def test_the_keyboard_reaches_everything_in_order_and_everything_has_a_name(page, voice):
    page.set_input_files("#file", voice)
    expect_text(page, "#status", "voice.wav, 4.0 s: ")
    page.locator("body").click(position={"x": 1, "y": 1})
    reached = []
    for _ in range(14):  # a player has several stops
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    wanted = ["file", "record", "window", "player", "SUMMARY"]
    assert list(dict.fromkeys(name for name in reached if name in wanted)) == wanted
    tree = page.locator("body").aria_snapshot()
    for named in ('button "Choose a file"', 'button "Record"', 'combobox "Probabilities over time', 'img "Waveform"',
                  'img "Spectrogram"', "status: ", 'heading "Result"', 'img "Probabilities over time'):  # fmt: skip
        assert named in tree, tree
    page.locator("#record").focus()
    page.keyboard.press("Enter")
    expect_text(page, "#record", "Stop")
    page.keyboard.press("Space")
    expect_text(page, "#status", "recording.wav, ")


def test_every_colour_of_text_stands_out_from_its_ground():
    """At least 4.5 : 1, WCAG 2.1's level AA."""
    styles = (PAGE / "page.css").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w{6})", styles))
    grounds = {
        "#ffffff": ("main", "wrong"), "ink": ("paper", "soft", "#fff4dc", "#d5dae0"), "quiet": ("paper", "soft"),
        "wrong": ("#fdeeee",),
    }  # fmt: skip
    for ink, ground in ((ink, ground) for ink, several in grounds.items() for ground in several):
        ink, ground = colours.get(ink, ink), colours.get(ground, ground)
        assert ground in styles
        light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
