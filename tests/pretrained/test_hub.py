"""Weights by name: what is on disk comes first, what was fetched before is used offline, errors name the folder."""

import pathlib
import re
import sys

import hugging_face
import huggingface_hub
import pytest

from emoflax import pretrained
from emoflax.configs import bert, text_states
from emoflax.errors import NotInstalled, UserError, WeightsUnavailable
from emoflax.experiment.model import resolve
from emoflax.pretrained import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline(monkeypatch, tmp_path) -> pathlib.Path:
    """The library without network and with its downloads in this folder."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def keep(cache: pathlib.Path) -> pathlib.Path:
    """A model as the library keeps it, with its revision main."""
    model = cache / "models--someone--a-bert"
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    hugging_face.bert(snapshot)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("name", ["someone/a-bert", "someone/a-bert@main", f"someone/a-bert@{COMMIT}"])
def test_a_model_that_was_fetched_before_is_used_without_network(offline, name):
    snapshot = keep(offline)
    assert hub.located(name) == snapshot
    fields = pretrained.fields("bert", name)
    assert fields["model.bert.width"] == 24 and fields["text.tokenizer"] == str(snapshot)
    assert pretrained.fingerprint(name) == pretrained.fingerprint(str(snapshot))
    config = bert.get_config()
    config.model.pretrained.text = name
    resolve(config)
    assert config.model.pretrained.text == f"someone/a-bert@{COMMIT}" and config.text.tokenizer.startswith("{")
    config = text_states.get_config()
    config.states.weights = name
    resolve(config)
    assert config.states.weights == f"someone/a-bert@{COMMIT}" and config.states.width == 24


@pytest.mark.parametrize("name", ["someone/a-bert@v2", "someone/another"])
def test_offline_the_error_names_what_to_do(offline, name):
    keep(offline)
    with pytest.raises(WeightsUnavailable, match=f"'{name}' is no file or folder here.* into a folder and name that"):
        pretrained.fields("bert", name)


def test_the_named_revision_and_no_pickle_is_fetched(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: calls.append((a, k)) or str(tmp_path))
    assert hub.located("microsoft/wavlm-base-plus@refs/pr/3") == tmp_path
    ((repository,), options) = calls[0]
    assert (repository, options["revision"]) == ("microsoft/wavlm-base-plus", "refs/pr/3")
    wanted = "|".join(pattern.replace(".", r"\.").replace("*", ".*") for pattern in options["allow_patterns"])
    fetched = [
        "config.json",
        "model.bin",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "vocab.txt",
        "merges.txt",
    ]
    assert all(re.fullmatch(wanted, name) for name in fetched)
    assert not any(re.fullmatch(wanted, name) for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"))


@pytest.mark.parametrize("path", ["there/folder", "weights/tiny.pt", "./org/name", "/org/name", "tiny", "a/b/c"])
def test_what_is_there_or_cannot_be_a_name_is_a_path(monkeypatch, tmp_path, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "folder").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    assert hub.located(path) == pathlib.Path(path)


def test_without_the_library_the_error_says_how_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NotInstalled, match=r"'org/name' is no file or folder here.*emoflax\[hub\]"):
        hub.located("org/name")


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"there is no /not/there/config\.json"):
        pretrained.fields("bert", "/not/there")
