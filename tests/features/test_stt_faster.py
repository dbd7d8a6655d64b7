"""faster-whisper behind the same interface, on a tiny model that CTranslate2's own converter made."""

import shutil
import sys

import numpy as np
import pytest
import soundfile
import tiny_whisper

from emoflax.configs.default import get_config
from emoflax.data.clip import Clip
from emoflax.errors import UserError, WeightsUnavailable
from emoflax.features import stt

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    folder = tiny_whisper.write_ctranslate2(tmp_path_factory.mktemp("weights"))
    chosen = {"engine": "faster-whisper", "source": "whisper", "whisper_model": str(folder), "whisper_batch": 2}
    return get_config().text.to_dict() | chosen


def noise(seed, seconds=0.5):
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE_HZ))).astype(np.float32)


def test_clips_get_words_of_their_own_alone_and_in_company_through_the_cache(fields, tmp_path, monkeypatch):
    clips = []
    for seed in range(3):
        soundfile.write(tmp_path / f"{seed}.wav", noise(seed), RATE_HZ, "FLOAT")
        clips.append(Clip(f"clip{seed}", "joy", "s", str(tmp_path / f"{seed}.wav")))
    words, failures = stt.transcribe_clips(clips, fields, str(tmp_path))
    assert not failures and all(words) and len(set(words)) > 1
    assert stt.load(fields).texts([noise(1)]) == words[1:2]
    monkeypatch.setattr(stt, "load", lambda _: pytest.fail("loaded faster-whisper for nothing"))
    assert stt.transcribe_clips(clips, fields, str(tmp_path)) == (words, {})
    other = fields | {"engine": "openai-whisper"}  # another engine's transcripts are not used
    assert not stt.all_cached(clips, other, str(tmp_path))


def test_beam_and_prompt_reach_the_decoder(fields):
    plain, beam, prompted = (
        stt.load(fields | change).texts([noise(0)]) for change in ({}, {"beam": 2}, {"prompt": "Oh my God"})
    )
    assert plain != beam and plain != prompted


def test_a_package_that_is_not_installed_is_one_clear_error(fields, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(UserError, match=r"pip install 'emoflax\[whisper\]'"):
        stt.load(fields)


def test_weights_that_are_nowhere_say_which_files_go_where(fields, monkeypatch, tmp_path):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"Systran.*Put model\.bin, config\.json, tokenizer\.json"):
        stt.locate_weights(fields | {"whisper_model": "tiny.en"})


@pytest.mark.parametrize("model, message", [("giant", "neither a folder nor a model"), ("", "lacks model.bin")])
def test_an_unknown_model_is_one_clear_error(fields, model, message):
    with pytest.raises(UserError, match=message):
        stt.load(fields | {"whisper_model": model})


def test_a_folder_without_all_files_or_with_broken_ones_is_one_clear_error(fields, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(fields["whisper_model"], broken)
    (broken / "model.bin").write_bytes(b"torn")
    with pytest.raises(UserError, match="broken could not be loaded"):
        stt.load(fields | {"whisper_model": str(broken)})
    (broken / "model.bin").unlink()
    with pytest.raises(UserError, match=r"lacks model\.bin"):
        stt.load(fields | {"whisper_model": str(broken)})


@pytest.mark.parametrize("language, message", [("klingon", "unknown to Whisper"), ("de", "English only")])
def test_a_language_that_the_model_does_not_know_is_one_clear_error(fields, language, message):
    with pytest.raises(UserError, match=message):
        stt.load(fields | {"language": language})
