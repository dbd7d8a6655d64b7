"""Weights from a folder: all of them or none, with one clear error; sizes, features and subwords come with them."""

import json
import pathlib
import re
import shutil

import hugging_face
import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers
from flax import nnx
from hugging_face import VOCABULARY

import emoflax
from emoflax import corpora, models, pretrained
from emoflax.configs import default
from emoflax.data import subwords
from emoflax.errors import UserError
from emoflax.experiment import evaluate
from emoflax.experiment import run as experiment
from emoflax.experiment.features import features_of
from emoflax.experiment.members import members
from emoflax.experiment.model import build_model, resolve
from emoflax.features import text as words


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, pathlib.Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("ast", "bert")}
    hugging_face.ast(made["ast"])
    hugging_face.bert(made["bert"])
    return made


@pytest.fixture
def folder(folders, tmp_path) -> pathlib.Path:
    """A BERT folder of one's own, to damage."""
    return pathlib.Path(shutil.copytree(folders["bert"], tmp_path / "folder"))


def settled(kind: str, encoder: str, folder: pathlib.Path):
    config = default.get_config().lock()
    config.model[kind], config.model.pooling, config.model.pretrained[kind] = encoder, "mean", str(folder)
    resolve(config)
    return config


def built(config) -> nnx.Module:
    size = len(subwords.vocabulary(config.text.tokenizer)) if config.text.tokenizer else 0
    return build_model(config, size, classes=3, seed=0)


@pytest.fixture(scope="module")
def bert(folders) -> nnx.Module:
    return built(settled("text", "bert", folders["bert"])).text


def rewrite(folder: pathlib.Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(change(dict(tensors)), path)


def test_the_folder_decides_sizes_features_and_tokens(folders):
    config = settled("audio", "ast", folders["ast"])
    assert (config.model.ast.width, config.model.ast.layers, config.audio.mels) == (24, 2, 36)
    assert (config.audio.frontend, config.audio.hop_ms, config.audio.fmin_hz) == ("kaldi", 10.0, 20.0)
    config = settled("text", "bert", folders["bert"])
    assert (config.model.bert.hidden, config.model.bert.heads, config.model.bert.positions) == (40, 3, 16)
    assert subwords.vocabulary(config.text.tokenizer) == tuple(VOCABULARY)


def test_every_parameter_is_replaced(folders):
    for kind, encoder in (("audio", "ast"), ("text", "bert")):
        fresh, loaded = (getattr(built(settled(kind, encoder, folders[encoder])), kind) for _ in range(2))
        pretrained.load(loaded, encoder, str(folders[encoder]))
        for (path, ours), (_, before) in zip(
            *(nnx.to_flat_state(nnx.state(m, nnx.Param)) for m in (loaded, fresh)), strict=True
        ):
            assert not np.allclose(ours[...], before[...], atol=1e-3), path


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named_and_nothing_is_changed(folder, bert):
    def spoil(tensors):
        tensors["encoder.layer.1.output.dense.bias"] = np.zeros(7, np.float32)
        tensors["encoder.layer.2.output.dense.bias"] = np.zeros(24, np.float32)
        tensors["embeddings.word_embeddings.weight"] = np.zeros(5, np.float32)  # not even a matrix
        del tensors["embeddings.LayerNorm.weight"]
        return tensors

    rewrite(folder, spoil)
    before = jax.tree.map(np.array, nnx.state(bert, nnx.Param))
    with pytest.raises(UserError) as error:
        pretrained.load(bert, "bert", str(folder))
    assert "1 missing: embeddings.LayerNorm.weight" in str(error.value)
    assert "1 not known: encoder.layer.2.output.dense.bias" in str(error.value)
    shapes = r"2 of another shape: embeddings.word_embeddings.weight \(5, .*output.dense.bias \(7, for our 24\)"
    assert re.search(shapes, str(error.value))
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, nnx.state(bert, nnx.Param)))


def test_folders_of_old_and_of_split_models_are_read_as_well(folder, bert):
    pretrained.load(bert, "bert", str(folder))
    wanted = jax.tree.map(np.array, nnx.state(bert, nnx.Param))

    def age(tensors):
        """As Google's first BERTs are stored: heads, positions, gamma and beta."""
        old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
               for name, array in tensors.items()}  # fmt: skip
        heads = {"cls.predictions.bias": np.zeros(3, np.float32)}
        return (
            {f"bert.{name}": array for name, array in old.items()}
            | heads
            | {"bert.embeddings.position_ids": np.arange(16)[None]}
        )

    rewrite(folder, age)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    places = {name: f"model-{1 + number % 2:05d}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for file in set(places.values()):
        part = {name: array for name, array in tensors.items() if places[name] == file}
        safetensors.numpy.save_file(part, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "model.safetensors").unlink()
    pretrained.load(bert, "bert", str(folder))
    jax.tree.map(np.testing.assert_array_equal, wanted, jax.tree.map(np.array, nnx.state(bert, nnx.Param)))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"there is no model-00002-of-00002\.safetensors in"):
        pretrained.load(bert, "bert", str(folder))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "no .*config.json .*Nothing is downloaded: put .* model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "is damaged"),
        (lambda f: (f / "vocab.txt").unlink(), "neither .*tokenizer.json nor vocab.txt nor merges.txt"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickles .* are not read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0 nothing"), "damaged"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer in .* is damaged"),
        (lambda f: edit(f, model_type="gpt2"), "model_type='gpt2' instead of one of bert, distilbert, roberta"),
        (lambda f: edit(f, hidden_act="relu"), "hidden_act='relu'"),
    ],
)
def test_unreadable_weights_are_an_error_that_names_the_file_to_put_where(folder, bert, spoil, words):
    spoil(folder)
    with pytest.raises(UserError, match=words):
        settled("text", "bert", folder)
        pretrained.load(bert, "bert", str(folder))


def edit(folder: pathlib.Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_an_encoder_without_a_table_is_refused_with_those_that_have_one(folders):
    with pytest.raises(UserError, match="'gru' cannot load pretrained weights.* bert"):
        settled("text", "gru", folders["bert"])
    with pytest.raises(UserError, match="config.model.audio names no encoder"):
        settled("audio", "", folders["ast"])
    assert set(pretrained.SOURCES) <= set(models.AUDIO_ENCODERS) | set(models.TEXT_ENCODERS)


@pytest.mark.parametrize("line", ["Oh my God, don't GO!", "so crying... ab abb", "xyz", "Oh " * 40])
@pytest.mark.parametrize("whole", [False, True])
def test_subwords_are_those_of_transformers(folder, line, whole):
    theirs = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    if whole:
        theirs.save_pretrained(folder)
        (folder / "vocab.txt").unlink(missing_ok=True)
    text = default.get_config().text
    text.tokenizer, text.max_tokens = subwords.read(str(folder)), 12
    ours = words.cutter(text.to_dict())(line)
    assert ours == theirs.convert_ids_to_tokens(theirs(line, truncation=True, max_length=12)["input_ids"])
    assert words.cutter(text.to_dict())("  ") == []


@pytest.mark.parametrize("line", ["oh my god", "God? I'm ünder", "  my  god!", "oh " * 20])
@pytest.mark.parametrize("whole", [False, True])
def test_byte_pairs_are_those_of_transformers(tmp_path, line, whole):
    hugging_face.roberta(tmp_path)
    theirs = transformers.RobertaTokenizerFast.from_pretrained(tmp_path)
    if whole:
        theirs.save_pretrained(tmp_path)
        (tmp_path / "merges.txt").unlink(missing_ok=True)
    cut = subwords.cutter(subwords.read(str(tmp_path)), 12)
    assert cut(line) == theirs.convert_ids_to_tokens(theirs(line, truncation=True, max_length=12)["input_ids"])


def test_fine_tuned_weights_are_predicted_with_after_the_folder_is_gone(folder, tmp_path, capsys):
    meld = tmp_path / "meld"
    meld.mkdir()
    head = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\n"
    utterances = [("oh my god!", "a", "joy"), ("you are so crying", "b", "sadness"), ("don't go.", "c", "anger")] * 3
    lines = [f"{line},{speaker},{emotion},0,{i}\n" for i, (line, speaker, emotion) in enumerate(utterances)]
    for split in ("train", "dev", "test"):
        (meld / f"{split}_sent_emo.csv").write_text(head + "".join(lines))
    config = settled("text", "bert", folder)
    config.data.update(dir=str(meld), cache_dir=str(tmp_path / "cache"), corpus="meld", buckets=1)
    config.train.update(epochs=1, batch_size=4)
    config.text.max_tokens, config.optimizer.freeze = 8, "encoders"
    corpus = corpora.load("meld", str(meld), config.data.cache_dir)
    member = members(config, corpus, tmp_path / "run")[0]
    features = features_of(config, corpus)
    experiment.train_member(config, features, member)

    untouched = built(config).text
    pretrained.load(untouched, "bert", str(folder))
    shutil.rmtree(folder)
    trained = evaluate.restore(member.checkpoints)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(untouched, nnx.Param), trained.state.params["text"])

    tested = evaluate.predict_member(config, features, member)
    (tmp_path / "line.txt").write_text("oh my god!")
    (alone,) = emoflax.load(member.checkpoints).predict(tmp_path / "line.txt")
    first = [corpus.clips[i].text for i in tested.clips].index("oh my god!")
    np.testing.assert_allclose(list(alone.probabilities.values()), np.exp(tested.log_p[first]), atol=1e-5)
