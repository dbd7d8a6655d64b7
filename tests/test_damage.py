"""Commands over damaged recordings, at a full disk, and interrupted: a sentence, the others' results, nothing lost."""

import json
import os
import resource
import signal
import struct
import subprocess
import time

import cli
import damaged_files
import pytest
import soundfile
from test_bad_input import RUN, flags, write_voices

# In every process of the command, also in that which decodes: some files end whoever opens them.
KILLER = """
import os, soundfile
whole = soundfile.SoundFile.__init__
def fragile(self, file, *rest, **options):
    if "killer" in str(file):
        os.kill(os.getpid(), 11)
    whole(self, file, *rest, **options)
soundfile.SoundFile.__init__ = fragile
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    write_voices(folder)
    cli.run(*flags(), cwd=folder)
    return folder


@pytest.fixture
def fragile(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    monkeypatch.setitem(cli.ENVIRONMENT, "PYTHONPATH", str(tmp_path / "site"))


def predict(trained, *inputs, output="out.jsonl"):
    model = trained / "runs" / RUN / "seed0-fold1"
    return ["--mode=predict", f"--checkpoint={model}", *(f"--inputs={path}" for path in inputs), f"--output={output}"]


def records(path):
    return {record["file"]: record for record in map(json.loads, path.read_text().splitlines())}


def write_mixed(folder):
    """A folder as people have them: {name: a word of the reason, or '' for a recording that can be read}."""
    voice = damaged_files.voice()
    (folder / "sub").mkdir(parents=True)
    (folder / "folder.wav").mkdir()
    (folder / ".git").mkdir()
    for name, form in (("ok.wav", "WAV"), ("UPPER.AIFF", "AIFF"), ("sub/ü [1].wav", "WAV"), ("a.oga", "OGG"),
                       ("half.aiff", "AIFF"), ("._ok.wav", "WAV"), (".git/a.wav", "WAV"),
                       ("killer.flac", "FLAC")):  # fmt: skip
        soundfile.write(folder / name, voice, 16_000, format=form)
    soundfile.write(folder / "b.opus", voice, 16_000, format="OGG", subtype="OPUS")
    (folder / "linked").symlink_to(folder / "sub", target_is_directory=True)
    (folder / "sub" / "circle").symlink_to(folder, target_is_directory=True)
    good = (folder / "ok.wav").read_bytes()
    for hz in (1, 2, 100, 4_000_000_000):
        (folder / f"rate_{hz}.wav").write_bytes(good[:24] + struct.pack("<I", hz) + good[28:])
    half = (folder / "half.aiff").read_bytes()
    (folder / "half.aiff").write_bytes(half[: len(half) // 2])
    at = good.index(b"data") + 4
    (folder / "short.wav").write_bytes(good[:at] + struct.pack("<I", 9000) + good[at + 4 :])
    (folder / "page.wav").write_text("<html><body>404</body></html>")
    (folder / "zero.wav").write_bytes(b"")
    (folder / "pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (folder / "Thumbs.db").write_bytes(bytes(16))
    os.mkfifo(folder / "pipe.wav")
    strange = os.path.join(os.fsencode(folder), b"caf\xe9\n.wav")
    with open(strange, "wb") as file:
        file.write(good)
    bad = {f"rate_{hz}.wav": "rate" for hz in (1, 2, 100, 4_000_000_000)}
    bad |= {"short.wav": "wrong header", "page.wav": "not sound", "zero.wav": "empty", "pointer.wav": "git lfs pull"}
    bad |= {"pipe.wav": "named pipe", "killer.flac": "ended the decoding process", "half.aiff": "truncated"}
    read = [
        "ok.wav",
        "b.opus",
        "UPPER.AIFF",
        "a.oga",
        "sub/ü [1].wav",
        "linked/ü [1].wav",
        os.fsdecode(b"caf\xe9\n.wav"),
    ]
    return bad | dict.fromkeys(read, "")


def test_predict_names_every_damaged_file_of_a_folder_and_predicts_all_others(trained, fragile, tmp_path):
    wanted = write_mixed(tmp_path / "mixed")
    output = cli.run(*predict(trained, "mixed"), cwd=tmp_path, status=3)
    made = records(tmp_path / "out.jsonl")
    assert {os.path.relpath(name, "mixed") for name in made} == set(wanted)
    for name, reason in wanted.items():
        record = made[os.path.join("mixed", name)]
        assert reason in record["error"] if reason else record["emotion"] in ("happy", "sad", "angry"), name
    assert f"{sum(map(bool, wanted.values()))} of {len(wanted)} files could not be read" in output
    assert "passed over: 1 hidden, 1 .db" in output or "passed over: 1 .db, 1 hidden" in output
    assert r"caf\udce9\n.wav" in output and not (tmp_path / "out.jsonl.unfinished").exists()


def test_precompute_goes_on_after_a_recording_that_ends_the_process_that_reads_it(trained, fragile, tmp_path):
    write_voices(tmp_path)
    soundfile.write(tmp_path / "killer.flac", *soundfile.read(tmp_path / "s0-sad.wav"))
    content = (tmp_path / "s1-sad.wav").read_bytes()
    (tmp_path / "s1-sad.wav").write_bytes(content[:24] + struct.pack("<I", 2) + content[28:])
    clips = tmp_path / "clips.csv"
    clips.write_text(clips.read_text().replace("s0-sad.wav", "killer.flac"))
    fields = {"precompute.max_bad_share": 0.2, "precompute.workers": 2, "precompute.shard_clips": 4}
    cli.run(*flags(**fields), "--mode=precompute", cwd=tmp_path)
    lines = next(tmp_path.rglob("unreadable.jsonl")).read_text().splitlines()
    reasons = {json.loads(line)["id"]: json.loads(line)["reason"] for line in lines}
    assert "ended the decoding process" in reasons["killer"] and "sample rate of 2 Hz" in reasons["s1-sad"]
    assert len(reasons) == 2


def test_an_output_that_cannot_be_or_is_an_input_is_refused_before_any_work(trained, tmp_path):
    voice = tmp_path / "a.wav"
    soundfile.write(voice, damaged_files.voice(), 16_000)
    before = voice.read_bytes()
    output = cli.run(*predict(trained, "a.wav", output="no/such/dir/x.jsonl"), cwd=tmp_path, status=2)
    assert "no/such/dir does not exist" in output
    (tmp_path / "same.jsonl").symlink_to(voice)
    output = cli.run(*predict(trained, "a.wav", output="same.jsonl"), cwd=tmp_path, status=2)
    assert "one of the inputs" in output and voice.read_bytes() == before
    assert "is a folder" in cli.run(*predict(trained, "a.wav", output="."), cwd=tmp_path, status=2)


@pytest.mark.parametrize("signals", [[signal.SIGINT, signal.SIGINT], [signal.SIGKILL]])
def test_an_interrupted_prediction_keeps_what_was_done_and_the_same_command_goes_on(trained, tmp_path, signals):
    soundfile.write(tmp_path / "a.wav", damaged_files.voice(), 16_000)
    (tmp_path / "many").mkdir()
    for number in range(400):
        os.link(tmp_path / "a.wav", tmp_path / "many" / f"{number}.wav")
    command, out = predict(trained, "many"), tmp_path / "out.jsonl"
    process = subprocess.Popen(cli.command(*command), cwd=tmp_path, env=cli.ENVIRONMENT, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)  # fmt: skip
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        time.sleep(0.01)
    for one in signals:
        process.send_signal(one)
        time.sleep(0.05)
    said = process.communicate(timeout=120)[0]
    # The second Ctrl-C may come after Python has put the usual handler back: a shell shows 130 for both.
    ended = (130, -signal.SIGINT) if signals[0] == signal.SIGINT else (-signal.SIGKILL,)
    assert process.returncode in ended and "Traceback" not in said
    done = out.read_text().splitlines()
    assert 0 < len(done) < 400
    with out.open("a") as file:
        file.write('{"file": "many/')  # torn
    said = cli.run(*command, cwd=tmp_path)
    assert f"{len(done)} of 400 files were dealt with before" in said
    assert out.read_text().splitlines()[: len(done)] == done and len(records(out)) == 400 == len(
        out.read_text().splitlines()
    )


@pytest.mark.parametrize("most_bytes", [2048, 12_288])
def test_a_full_disk_in_training_names_the_file_in_a_sentence(trained, tmp_path, most_bytes):
    fields = {"data.dir": trained / "clips.csv", "data.cache_dir": trained / "cache", "train.epochs": 2}
    done = subprocess.run(
        cli.command(*flags(**fields)), cwd=tmp_path, env=cli.ENVIRONMENT, capture_output=True, text=True, timeout=240,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr, done.stderr[-3000:]
    assert "File too large" in done.stderr.split("error: ")[1] and RUN in done.stderr.split("error: ")[1]
