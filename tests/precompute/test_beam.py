"""Apache Beam and the local pool write the same files, byte for byte, and Beam's failures give one sentence."""

import functools
import sys
from pathlib import Path

import cli
import pytest

from emoflax import corpora
from emoflax.configs import tiny
from emoflax.corpora import synthetic
from emoflax.data.clip import Clip
from emoflax.errors import UserError
from emoflax.precompute import beam, build

CONFIG = tiny.get_config()
AUDIO = CONFIG.audio.to_dict() | {"contours": True}
LOCAL = CONFIG.precompute.to_dict() | {"workers": 1, "shard_clips": 7, "max_bad_share": 0.2}
CLIP = Clip("a", "sad", "s")
BEAM = LOCAL | {"runner": "DirectRunner"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The built-in corpus in small, read as a user's own, with one file that is not sound."""
    folder = tmp_path_factory.mktemp("sound") / "corpus"
    synthetic.make(folder, speakers=2, clips_per_emotion=1)
    sorted(folder.rglob("*.wav"))[3].write_text("not sound")
    return folder / synthetic.INDEX


def contents(cache):
    """Name -> bytes of every file but the note that its shards were verified, which holds times of change."""
    files = (path for path in Path(cache).glob("*/*/*") if not path.name.startswith("."))
    return {str(path.relative_to(cache)): path.read_bytes() for path in files}


def test_the_command_writes_what_the_local_pool_writes_and_reports_the_same_bad_file(table, tmp_path):
    cli.run(
        cli.config("tiny"), "--mode=precompute", "--config.data.corpus=manifest", f"--config.data.dir={table}",
        "--config.precompute.shard_clips=7", "--config.precompute.max_bad_share=0.2", "--config.audio.contours=True",
        "--config.data.cache_dir=beam", "--runner=DirectRunner", "--", "--direct_running_mode=in_memory", cwd=tmp_path,
    )  # fmt: skip
    ready = build.log_mels(corpora.load("manifest", str(table), ""), AUDIO, str(tmp_path / "local"), LOCAL)
    assert len(ready.failures) == 1 and len(ready) == 15
    assert len(contents(tmp_path / "local")) == 2 * 3 + 2  # three shards with an index each, unreadable, manifest
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")


functionals = functools.partial(build.functionals, wanted={"statistics": True, "kernels": 8, "speeds": (1.0, 1.1)})


def test_functionals_are_the_same_and_a_broken_build_goes_on(table, tmp_path):
    corpus = corpora.load("manifest", str(table), "")
    functionals(corpus, AUDIO, cache_dir=str(tmp_path / "local"), precompute=LOCAL)
    functionals(corpus, AUDIO, cache_dir=str(tmp_path / "beam"), precompute=BEAM)
    wanted = contents(tmp_path / "local")
    assert len(wanted) == 8 and contents(tmp_path / "beam") == wanted

    (folder,) = (tmp_path / "beam").glob("*/*")
    for lost in ("manifest.json", "shard-00001.json"):
        (folder / lost).unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("shard-0000[02].*")}
    functionals(corpus, AUDIO, cache_dir=str(tmp_path / "beam"), precompute=BEAM)
    assert contents(tmp_path / "beam") == wanted
    assert len(kept) == 4 and kept == {path: path.stat().st_mtime_ns for path in kept}


def nothing(folder, number, clips):
    """Writes to nowhere that this machine sees."""


def no_room(folder, number, clips):
    raise UserError(f"Cannot write to {folder}: no room.")


@pytest.mark.parametrize(
    ("write", "runner", "options", "message"),
    [
        (nothing, "SlowRunner", (), "SlowRunner is not known; allowed are DirectRunner, DaskRunner"),
        (nothing, "DirectRunner", ("--direct_num_workers=few",), "refuses one of its options.*workers=few"),
        (nothing, "DirectRunner", (), "1 of 1 shards are not in .* share"),
        (no_room, "DirectRunner", (), "finished shards are kept.*Cannot write to .*: no room"),
    ],
)
def test_what_goes_wrong_is_one_sentence(write, runner, options, message, tmp_path):
    with pytest.raises(UserError, match=message) as raised:
        beam.write_shards(write, tmp_path, {0: (CLIP,)}, runner, options)
    assert "\n" not in str(raised.value)


def test_without_dask_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'apache-beam\[dask\]'"):
        beam.write_shards(nothing, tmp_path, {0: (CLIP,)}, "DaskRunner", ())


def test_without_beam_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'emoflax\[beam\]'"):
        beam.write_shards(nothing, tmp_path, {0: (CLIP,)}, "DirectRunner", ())
    pinned = (cli.ROOT / "tests" / "requirements.txt").read_text()
    assert "apache-beam==2.77.0" in pinned
