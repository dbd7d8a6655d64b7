"""Places with a tilde; --open: a page in the browser where there is one, else in words; signals are never lost."""

import logging
import subprocess
import sys
import webbrowser

import cli
import pytest

import main
from emoflax import command_line
from emoflax.configs import default
from emoflax.errors import UserError
from emoflax.experiment import checks


@pytest.fixture
def opened(monkeypatch):
    """What a browser was given; without a screen until a test sets one."""
    given = []
    monkeypatch.setattr(webbrowser, "open", lambda uri: given.append(uri) or True)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    return given


@pytest.mark.parametrize("flag", ["workdir", "checkpoint", "inputs", "output", "bundle", "onnxruntime_web"])
def test_a_home_is_meant_by_a_tilde_in_every_flag_that_names_a_place(flag, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = main.flags.FLAGS[flag].parser
    assert parser.parse("~/a b") == str(tmp_path / "a b")
    assert [parser.parse(text) for text in ("-", "a~b", "runs/x")] == ["-", "a~b", "runs/x"]
    with pytest.raises(ValueError, match="^there is no such user"):
        parser.parse("~nosuchuser/x")


def test_a_home_is_meant_by_a_tilde_in_every_field_that_names_a_place(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for field in (
        "data.dir", "data.root", "data.cache_dir", "text.file", "text.tokenizer", "text.whisper_model",
        "states.weights", "model.pretrained.audio", "model.pretrained.text", "log.mlflow",
    ):  # fmt: skip
        assert after_check(field, "~/a,~b") == f"{tmp_path}/a,~b"
        with pytest.raises(UserError, match=rf"^--config.{field}=~nosuchuser/x: there is no such user"):
            after_check(field, "~nosuchuser/x")
    assert after_check("data.dir", "~/a, ~/b,,/c~d", "tess,emovo,urdu,savee") == f"{tmp_path}/a,{tmp_path}/b,,/c~d"


def after_check(field, value, corpus="manifest"):
    config = default.get_config()
    config.update_from_flattened_dict({field: value, "data.corpus": corpus})
    checks.check(config)
    return checks.leaves(config)[field]


def test_a_page_is_opened_where_there_is_a_screen(opened, monkeypatch, tmp_path):
    monkeypatch.setenv("DISPLAY", ":0")
    command_line.open_page(tmp_path / "a b.html")
    assert opened == [(tmp_path / "a b.html").as_uri()]


@pytest.mark.parametrize("trouble", ["no screen", "no browser", "no page"])
def test_without_screen_browser_or_page_the_command_says_so_and_goes_on(opened, monkeypatch, tmp_path, caplog, trouble):
    if trouble != "no screen":
        monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", lambda uri: opened.append(uri) and False)
    page = None if trouble == "no page" else tmp_path / "report.html"
    with caplog.at_level(logging.WARNING, "absl"):
        command_line.open_page(page)
    assert ("this command made no page" if page is None else str(page)) in caplog.text
    assert len(opened) == (trouble == "no browser")


COLLECTING = """
import gc, os, signal, sys, time
from emoflax import command_line
if "in the background" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, command_line.interrupt)
sys.unraisablehook = command_line.unraisable
def callback(phase, info):  # as JAX has one
    if phase == "start" and not sent:
        sent.append(os.kill(os.getpid(), signal.SIGTERM))
        time.sleep(0.2)
sent = []
gc.callbacks.append(callback)
try:
    gc.collect()
    time.sleep(20)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("where", ["in the foreground", "in the background"])  # there, shells have SIGINT ignored
def test_a_signal_in_the_midst_of_garbage_collection_interrupts_all_the_same(where):
    environment = cli.ENVIRONMENT | {"PYTHONPATH": str(cli.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", COLLECTING, where], env=environment, text=True, capture_output=True, timeout=15
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
