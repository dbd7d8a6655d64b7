"""Whisper from folders: Hugging Face's equals `transformers`, CTranslate2's equals that library."""

import json
import pathlib
import shutil

import hugging_face
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from flax import nnx
from hugging_face import relative_error

from emoflax import pretrained
from emoflax.errors import UserError
from emoflax.models.whisper import Whisper, sinusoids
from emoflax.pretrained import whisper_folders


def loaded(folder: pathlib.Path) -> Whisper:
    return pretrained.encoder_alone("whisper", str(folder))


@pytest.fixture(scope="module")
def hugging_face_folder(tmp_path_factory) -> pathlib.Path:
    """A whole Whisper with a decoder, and the tokenizer that the converter wants."""
    folder = tmp_path_factory.mktemp("whisper")
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(
        vocab_size=60, d_model=24, encoder_layers=2, decoder_layers=1, encoder_attention_heads=3, num_mel_bins=40,
        decoder_attention_heads=2, encoder_ffn_dim=96, decoder_ffn_dim=48, max_target_positions=20, pad_token_id=0,
        bos_token_id=0, eos_token_id=0, decoder_start_token_id=1,
    ))  # fmt: skip
    hugging_face.randomised(model)
    with torch.no_grad():
        model.model.encoder.embed_positions.weight.copy_(torch.tensor(sinusoids(1500, 24)))
    model.save_pretrained(folder)
    words = {"<|endoftext|>": 0} | {f"w{n}": n for n in range(1, 60)}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<|endoftext|>"},
    }))  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.fixture(scope="module")
def converted(hugging_face_folder, tmp_path_factory) -> dict[str, pathlib.Path]:
    """The same weights in CTranslate2's folders, by how they are stored."""
    folders = {name: tmp_path_factory.mktemp(name) / "model" for name in ("float32", "float16", "int8", "int16")}
    for name, folder in folders.items():
        TransformersConverter(str(hugging_face_folder)).convert(str(folder), quantization=name)
    return folders


def inputs(mels: int) -> np.ndarray:
    return np.random.default_rng().normal(size=(2, 3000, mels)).astype(np.float32)


def test_a_hugging_face_folder_gives_the_output_of_transformers(hugging_face_folder):
    theirs = transformers.WhisperModel.from_pretrained(hugging_face_folder).encoder.eval()
    logmel = inputs(40)
    with torch.no_grad():
        wanted = theirs(torch.tensor(logmel.transpose(0, 2, 1))).last_hidden_state.numpy()
    h_BxSxD, mask_BxS = nnx.jit(lambda e, *x: e(*x))(loaded(hugging_face_folder), logmel, jnp.array([3000, 3000]))
    assert mask_BxS.all() and relative_error(h_BxSxD, wanted) < 1e-4


def test_a_ctranslate2_folder_holds_the_weights_that_it_was_made_of(hugging_face_folder, converted):
    # 8 bits: half a step of 1/127 of a row's largest weight; 16 bits: of 1/1024 of the matrix's.
    tolerances = {"float32": 0, "float16": 1e-3, "int8": 0.5 / 127, "int16": 0.5 / 1024}
    before = dict(nnx.to_flat_state(nnx.state(loaded(hugging_face_folder), nnx.Param)))
    largest = max(np.abs(weights[...]).max() for weights in before.values())
    for name, folder in converted.items():
        after = dict(nnx.to_flat_state(nnx.state(loaded(folder), nnx.Param)))
        assert before.keys() == after.keys()
        for path, weights in before.items():
            assert np.abs(weights[...] - after[path][...]).max() <= 1.01 * tolerances[name] * largest, (name, path)


def test_a_fingerprint_depends_on_the_weights_and_their_sizes_alone(hugging_face_folder, converted, tmp_path):
    folder = converted["int8"]
    copies = [shutil.copytree(source, tmp_path / source.parent.name) for source in (hugging_face_folder, folder)]
    for copy in copies:
        (copy / "README.md").write_text("anything")
    same = [str(hugging_face_folder), str(folder)]
    assert [*map(pretrained.fingerprint, same)] == [pretrained.fingerprint(str(copy)) for copy in copies]
    assert len({*map(pretrained.fingerprint, same), pretrained.fingerprint("tiny")}) == 3
    content = bytearray((copies[1] / "model.bin").read_bytes())
    content[-9] ^= 1
    (copies[1] / "model.bin").write_bytes(content)
    assert pretrained.fingerprint(str(copies[1])) != pretrained.fingerprint(str(folder))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda good: b"", "model.bin is damaged or no CTranslate2 model"),
        (lambda good: good[: len(good) // 3], "model.bin is damaged or no CTranslate2 model"),
        (lambda good: b"\x05" + good[1:], "version 5; version 6 can be read"),
        (lambda good: good.replace(b"encoder/conv1", b"encoder/conv9"), "is a CTranslate2 model, but not a Whisper"),
        (lambda good: good.replace(b"conv2/bias", b"conv2/bios"), "1 missing: conv2.bias; 1 not known: conv2.bios"),
    ],
)
def test_a_damaged_ctranslate2_folder_is_one_sentence(converted, tmp_path, content, words):
    good = (converted["float16"] / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(content(good))
    with pytest.raises(UserError, match=words):
        loaded(tmp_path)


def test_a_folder_of_another_model_is_refused(tmp_path):
    hugging_face.bert(tmp_path)
    with pytest.raises(UserError, match="model_type='bert' instead of 'whisper'"):
        loaded(tmp_path)


def test_heads_and_decoders_are_not_even_read(hugging_face_folder):
    names = whisper_folders.read(hugging_face_folder).tensors()
    assert "blocks.1.attn.key.weight" in names and not any("decoder" in name or "proj" in name for name in names)
