"""States of Whisper's layers: right for each clip, cached, resumed, and probed by one command."""

import json

import cli
import numpy as np
import pytest
import soundfile
import tiny_whisper
import whisper

from emoflax.configs import default
from emoflax.corpora import synthetic
from emoflax.data.clip import Clip, Corpus
from emoflax.data.shards import ShardSet
from emoflax.errors import UserError
from emoflax.features.states import load
from emoflax.precompute import states

CONFIG = default.get_config()
AUDIO = CONFIG.audio.to_dict() | {"trim_db": 0.0, "level": "absolute"}
PRECOMPUTE = {"workers": 1, "shard_clips": 2, "max_bad_share": 0.5, "runner": ""}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_whisper.write(tmp_path_factory.mktemp("weights") / "tiny.pt", audio_layers=2, weight_scale=0.3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("sound"), np.random.default_rng(0)
    for name, seconds in (("a", 0.9), ("b", 2.3), ("c", 0.2), ("d", 31.0)):
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.normal(size=round(16_000 * seconds)), 16_000, "FLOAT")
    (folder / "bad.wav").write_text("no sound")
    return Corpus("toy", ("x",), tuple(Clip(p.stem, "x", "s", str(p)) for p in sorted(folder.glob("*.wav"))))


def compute(corpus, path, cache, **fields):
    fields = {"encoder": "whisper", "weights": str(path), "silence_s": 0.0, "parts": 2, "batch": 2} | fields
    return states.layer_states(corpus, fields, AUDIO, str(cache), PRECOMPUTE)


@pytest.fixture(scope="module")
def cache(corpus, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return folder, compute(corpus, weights, folder)


def test_states_of_clips_padded_to_30_s_equal_whispers_own(corpus, weights, cache):
    found = compute(corpus, weights, cache[0], silence_s=30.0)
    reference, outputs = whisper.load_model(str(weights)).encoder, []
    reference.ln_post.register_forward_hook(lambda _, __, output: outputs.append(output))
    wave = soundfile.read(corpus.clips[1].path, dtype="float32")[0]
    reference(whisper.log_mel_spectrogram(whisper.pad_or_trim(wave - wave.mean()))[None])
    steps = -(-(len(soundfile.read(corpus.clips[1].path)[0]) // 160 + 3) // 2)
    theirs = outputs[0][0, :steps].mean(0).detach().numpy()
    assert found[0].shape == (1, 3, 4, 16) and found.ids[1] == corpus.clips[1].id == "b"
    assert np.abs(found[1][0, -1, 0] - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_states_are_those_of_each_clip_alone_in_windows_of_30_s_and_bad_clips_are_left_out(corpus, weights, cache):
    folder, together = cache
    assert together.ids == ("a", "b", "c", "d") and [bad["id"] for bad in together.failures] == ["bad"]
    assert together.lengths.tolist() == [1] * 4 and together.manifest["kind"] == "states"
    assert len(set(together.digests)) == 4 and all(together.digests)
    logmels = ShardSet.open(next(folder.glob("toy/logmel-*")))
    encoder = load("whisper", str(weights), silence_s=0.0, parts=2, batch=1)
    for clip in range(4):
        windows = [logmels[clip][start : start + 3000] for start in range(0, len(logmels[clip]), 3000)]
        alone = [encoder([window])[0] for window in windows]
        expected = np.average(alone, axis=0, weights=[len(window) for window in windows])
        np.testing.assert_allclose(together[clip][0], expected, atol=1e-4)
    assert len(logmels[3]) > 3000


def test_what_is_computed_is_found_again_and_a_killed_run_computes_only_what_is_missing(corpus, weights, cache):
    folder, _ = cache
    (made,) = (p.parent for p in folder.glob("toy/states-*/manifest.json") if '"silence_s": 0.0' in p.read_text())
    shard_files = sorted(made.glob("shard-*.npy"))
    contents = [path.read_bytes() for path in shard_files]
    times = [path.stat().st_mtime_ns for path in shard_files]
    compute(corpus, weights, folder)
    assert [path.stat().st_mtime_ns for path in shard_files] == times
    (shard_files[0].parent / "manifest.json").unlink()  # as after a kill that came after the first two shards
    shard_files[2].unlink()
    compute(corpus, weights, folder)
    assert [path.read_bytes() for path in shard_files] == contents
    assert [path.stat().st_mtime_ns for path in shard_files][:2] == times[:2]


def test_other_weights_or_settings_get_a_folder_of_their_own(corpus, weights, cache, tmp_path):
    folder, before = cache
    folders = set(folder.glob("toy/states-*"))
    other = compute(corpus, tiny_whisper.write(tmp_path / "other.pt", 1, audio_layers=2), folder)
    assert len(set(folder.glob("toy/states-*")) - folders) == 1 and not np.allclose(other[0], before[0])


@pytest.mark.parametrize(
    "fields, message", [({"weights": ""}, "config.states.weights"), ({"weights": "nowhere.pt"}, "nowhere.pt")]
)
def test_settings_without_sense_are_one_clear_error(corpus, weights, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        compute(corpus, weights, tmp_path, **fields)


def test_one_command_probes_a_corpus_and_reports_like_any_other(weights, tmp_path):
    synthetic.make(tmp_path / "voices", speakers=5, clips_per_emotion=1)
    fields = {"data.corpus": "synthetic", "data.dir": "voices", "states.weights": weights, "states.silence_s": 0.0,
              "split.protocol": "loso", "probe.ridges": "(0.1,1.0)"}  # fmt: skip
    command = [cli.config("probe"), *(f"--config.{name}={value}" for name, value in fields.items()), "--mode=probe"]
    output = cli.run(*command, cwd=tmp_path)
    report = json.loads((tmp_path / "runs" / "probe-synthetic-loso" / "report.json").read_text())
    assert report["speakers"] == 5 and report["clips"] == 40 and report["pretrained"] is True
    assert "chosen among 3 layers x 2 ridges" in output and " folds)" in output
    # What scored the test clips was kept, one model a fold.
    kept = "--checkpoint=runs/probe-synthetic-loso/seed0-fold2"
    cli.run("--mode=predict", kept, "--inputs=voices/speaker_02", "--output=out.jsonl", cwd=tmp_path)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 8


def test_states_are_described_by_the_code_of_their_encoder_and_of_nothing_else(corpus, weights, cache):
    code = cache[1].manifest["settings"]["code"]
    assert {"emoflax.models.whisper", "emoflax.models.states", "emoflax.models.transformer"} <= code.keys()
    assert not any(name in code for name in ("emoflax.models.ridge", "emoflax.models.cnn", "emoflax.models"))
