"""What the program itself has written, in any damaged state: one sentence that names the file, and nothing changed."""

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import cli
import numpy as np
import pytest

from emoflax import corpora
from emoflax.corpora import ravdess, scan, table
from emoflax.data import shards
from emoflax.data.shards import Row, ShardSet
from emoflax.errors import UserError
from emoflax.experiment import closed_form
from emoflax.experiment.evaluate import Predictions
from emoflax.inference import records, sources
from emoflax.pretrained import huggingface
from emoflax.reporting import compare, ledger
from emoflax.reporting.metrics import METRICS
from emoflax.selection import kept_predictions
from emoflax.training import monitor

DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "binary": lambda content: bytes(range(256)) * 4,
    "list": lambda content: b"[1, 2]\n",
    "number": lambda content: b"17\n",
    "null": lambda content: b"null\n",
    "object": lambda content: b'{"a": 1}\n',
    "deep": lambda content: b"[" * 5000 + b"]" * 5000 + b"\n",
    "deep_object": lambda content: b'{"epoch":' * 5000 + b"\n",
    "long_number": lambda content: b"1" * 5000 + b"\n",
}


def write_log(folder):
    lines = [{"epoch": epoch, "loss": 1.0, "dev_uar": 0.5, "dev_loss": 1.0} for epoch in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(folder):
    clips = [(f"c{number}", f"s{number % 2}", ("a", "b")[number % 3 == 0]) for number in range(6)]
    lines = ["corpus,seed,fold,clip,speaker,label,predicted,a,b"]
    lines += [f"x,0,1,{clip},{speaker},{label},a,0.6,0.4" for clip, speaker, label in clips]
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
    facts = {"corpus": "x", "protocol": "p", "labels": ["a", "b"], "clips": 6}
    (folder / "report.json").write_text(json.dumps(facts))


def write_shards(folder):
    shards.write_shard(folder, 0, [Row(f"c{i}", np.ones((3, 2), np.float32), "d") for i in range(4)], (2,), "<f4")
    shards.write_manifest(folder, 1, {"kind": "logmel", "corpus": "x", "fingerprint": "f", "settings": {}})


def write_ledger(folder):
    texts = ("config", "corpus", "protocol", "metric", "command", "commit", "machine", "date")
    entry = dict.fromkeys(texts, "x") | {"mean": 0.5, "minutes": 1.0, "low": None, "high": None}
    entry |= {"seeds": [0], "ensemble": 1, "spread": None, "pretrained": False}
    lines = [json.dumps(entry | {"metric": metric}) for metric in METRICS]
    (folder / "results.jsonl").write_text("".join(line + "\n" for line in lines))


def write_nested(folder):
    (folder / "choices.json").write_text(json.dumps([{"fold": 1, "weights": {"a": 1.0}}, {"fold": 2, "weights": {}}]))


def weights_of_folds(folder):
    """--mode=predict reads them; of this run, whose models are not there, it says so."""
    try:
        sources.members_of(folder)
    except UserError as error:
        if "no final model" not in str(error):
            raise


def write_left_out(folder):
    np.savez(folder / "left_out.npz", clips=np.arange(3), log_p=np.zeros((3, 2)))


def write_pretrained(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", "hidden": 8}))


READERS = {
    "metrics.jsonl": (write_log, monitor.read),
    "predictions.csv": (write_run, compare.read),
    "report.json": (write_run, compare.read),
    "manifest.json": (write_shards, lambda folder: ShardSet.open(folder, verify=True)),
    "shard-00000.json": (write_shards, lambda folder: ShardSet.open(folder, verify=True)),
    "shard-00000.npy": (write_shards, lambda folder: ShardSet.open(folder, verify=True)),
    "results.jsonl": (write_ledger, lambda folder: ledger.read(folder / "results.jsonl")),
    "choices.json": (write_nested, weights_of_folds),
    "left_out.npz": (write_left_out, closed_form.read_left_out),
    "config.json": (write_pretrained, lambda folder: huggingface.read_config(folder, {"model_type": "whisper"})),
}
# An empty log is one of no epoch, an empty ledger one of no result; a last line that a kill has torn is none.
WHOLE = {("metrics.jsonl", "empty"), ("results.jsonl", "empty")}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_of_ours_is_named_in_a_sentence_and_stays_as_it_is(tmp_path, name, damage):
    write, read = READERS[name]
    write(tmp_path)
    read(tmp_path)
    path = tmp_path / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    if (name, damage) in WHOLE:
        assert not read(tmp_path)
    elif (name, damage) == ("config.json", "object"):
        assert read(tmp_path) == {"a": 1}  # the fields of an encoder are asked for one by one
    elif (name, damage) == ("metrics.jsonl", "cut"):
        assert [line["epoch"] for line in read(tmp_path)] == [1]
    else:
        with pytest.raises(UserError) as error:
            read(tmp_path)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 900
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_predictions_of_a_cross_validation_are_made_again(tmp_path, damage):
    path, nothing = tmp_path / "test.npz", np.zeros(0)
    kept = Predictions(0, 1, 1, nothing, nothing, 1, 1.0)
    kept_predictions.write(path, "key", kept)
    assert kept_predictions.read(path, "key") is not None
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert kept_predictions.read(path, "key") is None


@pytest.mark.parametrize(
    "change",
    [{"seeds": 3}, {"ensemble": "x"}, {"seeds": [0, 1], "spread": None}, {"pretrained": []}, {"mean": float("nan")},
     {"metric": "x"}, {"seeds": None}],
)  # fmt: skip
def test_a_ledger_line_with_a_damaged_field_is_named(tmp_path, change):
    write_ledger(tmp_path)
    path = tmp_path / "results.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | change), *others]))
    with pytest.raises(UserError, match=r"results\.jsonl, line 1: it is no result"):
        ledger.read(path)


@pytest.mark.parametrize("metric", METRICS)
def test_a_result_without_one_of_its_lines_is_named_before_the_tables_are_made(tmp_path, metric):
    write_ledger(tmp_path)
    entries = ledger.read(tmp_path / "results.jsonl")
    assert "`x`" in ledger.tables(entries)
    with pytest.raises(UserError, match=f"no line of {metric} of x"):
        ledger.tables([entry for entry in entries if entry["metric"] != metric])


@pytest.mark.parametrize("seed", ["0", "1"])
@pytest.mark.parametrize("change", [lambda own: own[:-1], lambda own: [*own, own[-1]], lambda own: [*own[:-1], own[0]]])
def test_a_seed_that_lacks_a_clip_or_has_one_twice_is_named_in_a_comparison(tmp_path, seed, change):
    write_run(tmp_path)
    path = tmp_path / "predictions.csv"
    head, *zero = path.read_text().splitlines()
    seeds = {"0": zero, "1": [line.replace("x,0,", "x,1,") for line in zero]}
    path.write_text("\n".join([head, *seeds["0"], *seeds["1"]]) + "\n")
    compare.read(tmp_path)
    seeds[seed] = change(seeds[seed])
    path.write_text("\n".join([head, *seeds["0"], *seeds["1"]]) + "\n")
    with pytest.raises(UserError, match=f"lines of seed {seed} for 6 clips"):
        compare.read(tmp_path)


def test_training_does_not_overwrite_a_damaged_log(tmp_path):
    write_log(tmp_path)
    path = tmp_path / "metrics.jsonl"
    content = path.read_bytes().replace(b'"epoch": 2', b'"epoch": x')
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2 is damaged"):
        monitor.Monitor(tmp_path, "run", 3, 5)
    assert path.read_bytes() == content


def test_a_torn_last_line_of_the_ledger_does_not_swallow_the_next_result(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"metric": "ua')
    ledger.append([{"metric": "uar"}], path)
    assert path.read_text().splitlines() == ['{"metric": "ua', '{"metric": "uar"}']


FULL = """
import pathlib, resource, sys, time
from emoflax.errors import UserError
from emoflax.training.monitor import Monitor
monitor = Monitor(pathlib.Path(sys.argv[1]), "run", 0, 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    for epoch in range(1, 100):
        numbers = {"epoch": epoch, "loss": 1.0, "dev_uar": None, "clips_per_s": 1.0}
        monitor.epoch(numbers | {f"x{i}": 1.0 for i in range(10)})
except UserError as error:
    print(error)
monitor.close()
"""


def test_logging_at_a_full_disk_ends_in_a_sentence_and_waits_for_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], cwd=cli.ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith(f"cannot write {tmp_path}") and "File too large" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["ravdess", "tess", "meld", "manifest"])
def test_the_home_of_a_user_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(UserError, match="nosuchuser"):
        corpora.load(name, "~nosuchuser/clips.csv", str(tmp_path))


def test_json_that_is_nested_too_deep_or_a_number_too_long_is_named_with_its_line(tmp_path):
    for number, text in enumerate(("[" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, '{"file": ' + "1" * 5000 + "}")):
        path = tmp_path / f"{number}.jsonl"
        path.write_text('{"file": "a.wav"}\n' + text + "\n")
        with pytest.raises(UserError, match=rf"{number}\.jsonl line 2 is not valid JSON"):
            table.read(path)


def published(archive, size):
    """The members of the published zip, each of `size` zeros."""
    for clip in sorted(ravdess.PUBLISHED_IDS):
        archive.writestr(f"{clip}.wav", bytes(size))


def test_a_zip_bomb_or_a_broken_directory_is_refused_before_anything_is_unpacked(tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        published(archive, 10)
        archive.writestr(f"other/{min(ravdess.PUBLISHED_IDS)}.wav", bytes(ravdess._MOST_BYTES + 1))
    with pytest.raises(UserError, match=r"bomb\.zip is not RAVDESS: .* would unpack to"):
        ravdess.load(str(bomb), str(tmp_path / "cache"))
    content = bomb.read_bytes()
    end = content.rindex(b"PK\5\6")
    (tmp_path / "folder").mkdir()
    for number, broken in enumerate(
        (content[: end // 2], content[:end] + b"PK\5\6" + b"\xff" * 18, b"PK\5\6" + bytes(9))
    ):
        path = tmp_path / "folder" / f"broken{number}.zip"
        path.write_bytes(broken)
        with pytest.raises(UserError, match=rf"broken{number}\.zip"):
            ravdess.load(str(path), str(tmp_path / "cache"))
    with pytest.raises(UserError, match="No RAVDESS speech clip"):
        ravdess.load(str(tmp_path / "folder"), str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*.wav"))


def test_a_folder_that_cannot_be_listed_is_named_in_training_and_in_prediction(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.wav").touch()
    whole = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="Cannot read the folder .*closed: Permission denied"):
        scan.files(tmp_path)
    result = scan.search(tmp_path)
    assert result.files == [str(tmp_path / "a.wav")] and list(result.unreadable) == [str(tmp_path / "closed")]


def test_links_are_followed_and_circles_end(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.opus").touch()
        (tmp_path / name / "up").symlink_to(tmp_path)
        (tmp_path / name / "other").symlink_to(tmp_path / ("b" if name == "a" else "a"))
    (tmp_path / "loop").symlink_to("loop")
    result = scan.search(tmp_path)
    names = {os.path.relpath(path, tmp_path) for path in result.files}
    assert {"a/a.opus", "b/b.opus", "a/other/b.opus"} <= names and len(result.files) == 4
    deep = tmp_path
    for _ in range(300):
        deep = deep / "d"
    made = subprocess.run(["mkdir", "-p", str(deep.relative_to(tmp_path))], cwd=tmp_path)
    assert made.returncode == 0 and len(scan.search(tmp_path).files) == 4


def test_records_of_another_model_or_of_a_finished_command_are_not_kept(tmp_path):
    output, paths = tmp_path / "out.jsonl", [pathlib.Path("a.wav"), pathlib.Path("b.wav")]
    for description, kept in (({"epoch": 1}, 0), ({"epoch": 1}, 1), ({"epoch": 2}, 0)):
        with pytest.raises(KeyboardInterrupt), records.Records(output, description, paths) as made:
            assert len(made.earlier) == kept
            made.add([{"file": "a.wav", "emotion": "sad"}] if not kept else [])
            raise KeyboardInterrupt
    with records.Records(output, {"epoch": 2}, paths) as made:
        assert made.earlier == {"a.wav"}
    with records.Records(output, {"epoch": 2}, paths) as made:
        assert not made.earlier
    (tmp_path / "out.jsonl.unfinished").write_bytes(b"[" * 5000)
    with records.Records(output, {"epoch": 2}, paths) as made:
        assert not made.earlier


def test_windows_of_the_file_that_an_interruption_came_into_are_predicted_again(tmp_path):
    output, paths = tmp_path / "out.jsonl", [pathlib.Path(name) for name in ("a.wav", "b.wav", "c.wav")]
    with pytest.raises(KeyboardInterrupt), records.Records(output, {}, paths) as made:
        made.add([{"file": name, "start_s": start_s, "emotion": "sad"} for name in ("a.wav", "b.wav")
                  for start_s in (0.0, 1.0)])  # fmt: skip
        raise KeyboardInterrupt
    with output.open("rb+") as file:
        file.truncate(output.stat().st_size - 10)
    with records.Records(output, {}, paths) as made:
        assert made.earlier == {"a.wav"}
        assert [json.loads(line)["start_s"] for line in output.read_text().splitlines()] == [0.0, 1.0]
