"""An encoder in a folder of our own is the encoder that it was written from, and needs nothing of its publisher's."""

import json
import shutil
import subprocess
import sys

import cli
import hugging_face
import jax
import numpy as np
import pytest
import tiny_whisper
from flax import nnx

from emoflax import pretrained
from emoflax.data import subwords
from emoflax.errors import UserError
from emoflax.pretrained import own_folder


def write_published(encoder, folder):
    if encoder == "whisper":
        return tiny_whisper.write(folder / "tiny.pt", audio_layers=2)
    if encoder == "bert":
        hugging_face.bert(folder / encoder)
    else:
        hugging_face.wave(folder / encoder, encoder)
    return folder / encoder


@pytest.fixture(params=["bert", "whisper", "wav2vec2", "wavlm"])
def kept(request, tmp_path):
    published = write_published(request.param, tmp_path)
    pretrained.keep(tmp_path / "own", request.param, str(published))
    return request.param, published, tmp_path / "own"


def test_fields_and_parameters_are_those_of_the_published_files(kept):
    encoder, published, own = kept
    ours, theirs = (pretrained.fields(encoder, str(path)) for path in (own, published))
    if encoder == "bert":  # the tokenizer itself in the place of its folder
        theirs["text.tokenizer"] = subwords.read(theirs["text.tokenizer"])
    assert ours == theirs
    both = (nnx.state(pretrained.encoder_alone(encoder, str(path)), nnx.Param) for path in (own, published))
    jax.tree.map(np.testing.assert_array_equal, *both)
    assert len(pretrained.fingerprint(str(own))) == 64 and pretrained.pinned(str(own)) == str(own)


def test_it_is_read_without_pytorch(tmp_path):
    pretrained.keep(tmp_path / "own", "whisper", str(write_published("whisper", tmp_path)))
    (tmp_path / "tiny.pt").unlink()
    script = "import sys; sys.modules['torch'] = sys.modules['whisper'] = None; from emoflax import pretrained; "
    script += "print(pretrained.encoder_alone('whisper', 'own').width)"
    environment = cli.ENVIRONMENT | {"PYTHONPATH": str(cli.ROOT)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "16", done.stderr


def test_what_is_float16_is_kept_so_and_what_is_not_loses_nothing(tmp_path):
    half, single = np.array([0.5, 1e-3], np.float16), np.array([1e-9, 1e9], np.float32)
    assert own_folder._short(half.astype(np.float32)).dtype == np.float16
    np.testing.assert_array_equal(own_folder._short(single), single)


def test_another_encoder_and_damage_are_one_sentence(tmp_path):
    pretrained.keep(tmp_path / "own", "whisper", str(write_published("whisper", tmp_path)))
    with pytest.raises(UserError, match="holds the weights of an encoder 'whisper', not of 'ast'"):
        pretrained.fields("ast", str(tmp_path / "own"))
    for number, content in enumerate(("[", "[]", json.dumps({"encoder": "whisper"}))):
        damaged = shutil.copytree(tmp_path / "own", tmp_path / str(number))
        (damaged / own_folder.INDEX).write_text(content)
        with pytest.raises(UserError, match=r"encoder\.json is damaged"):
            pretrained.fields("whisper", str(damaged))
    (tmp_path / "own" / own_folder.WEIGHTS).write_bytes(b"none")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        pretrained.encoder_alone("whisper", str(tmp_path / "own"))
