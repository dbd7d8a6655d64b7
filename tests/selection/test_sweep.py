"""The search: ranges, drawing, pruning, what is written, and going on after a kill."""

import csv
import json
import subprocess
import time

import cli
import optuna
import pytest

from emoflax.configs import tiny
from emoflax.corpora import synthetic
from emoflax.errors import UserError
from emoflax.experiment.members import folds
from emoflax.selection import crossval, sweep
from emoflax.selection.candidates import override

SPACE = {"optimizer.learning_rate": ("choice", 1e-3, 3e-2)}  # two programs to compile, however many trials
FIELDS = {
    "name": "hunt", "data.corpus": "synthetic", "data.dir": "voices", "data.buckets": 1, "audio.mels": 8,
    "model.cnn.channels": (4,), "train.epochs": 2, "sweep.trials": 4, "sweep.startup_trials": 2,
    "sweep.prune_after_epochs": 0, "precompute.workers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    synthetic.make(folder / "voices", speakers=6, clips_per_emotion=1)
    (folder / "hunt.py").write_text(
        f"import sys\nsys.path.insert(0, {str(cli.ROOT)!r})\nfrom emoflax.configs import tiny\n\n\ndef get_config():\n"
        f"    config = tiny.get_config()\n    config.update_from_flattened_dict({FIELDS!r})\n"
        f"    config.sweep.space = {SPACE!r}\n    return config\n"
    )
    return folder


def config_of(folder):
    config = tiny.get_config()
    config.update_from_flattened_dict(FIELDS | {"data.dir": str(folder / "voices")})
    config.data.cache_dir, config.sweep.space = str(folder / "cache"), SPACE
    return config


def trials(folder):
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_killed_and_started_again_is_the_same_as_never_killed(place, monkeypatch):
    monkeypatch.chdir(place)
    config = config_of(place)
    (place / "whole").mkdir()
    said = sweep.run(config, crossval.open_features(config).corpus, place / "whole")
    flags = cli.command("--config=hunt.py", "--mode=sweep", "--workdir=killed")
    process = subprocess.Popen(flags, cwd=place, env=cli.ENVIRONMENT, stdout=subprocess.DEVNULL)
    killed = place / "killed" / "hunt-synthetic-speakers5-sweep"
    while process.poll() is None and not (killed / "trial0001").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    study = sweep.open_study(killed, config)
    assert 1 < len(study.trials) < 4 and sweep.begun(study)
    sweep.run(config, crossval.open_features(config).corpus, killed)
    assert trials(killed) == trials(place / "whole") and len(trials(killed)) == 4
    best = json.loads((killed / "best.json").read_text())
    assert best == json.loads((place / "whole" / "best.json").read_text())
    assert best["flags"] in said and best["dev_uar"] == max(float(t["score"]) for t in trials(killed)
                                                            if t["state"] == "complete")  # fmt: skip
    for picture in ("history.png", "importance.png"):
        assert (killed / picture).read_bytes().startswith(b"\x89PNG")
    config.sweep.space = SPACE | {"model.dropout": ("uniform", 0.0, 0.5)}
    with pytest.raises(UserError, match="a search with other settings"):
        sweep.run(config, crossval.open_features(config).corpus, killed)


def test_two_processes_share_a_search_and_try_every_trial_once(place):
    command = cli.command("--config=hunt.py", "--mode=sweep", "--workdir=shared", "--config.crossval.shared=True")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, cwd=place, env=cli.ENVIRONMENT, **pipes) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    folder = place / "shared" / "hunt-synthetic-speakers5-sweep"
    study = sweep.open_study(folder, config_of(place))
    assert [trial.state.is_finished() for trial in study.trials] == [True] * 4
    # Those drawn at random are those of one process.
    alone = sweep.open_study(place / "whole", config_of(place)).trials
    assert [trial.params for trial in study.trials[:2]] == [trial.params for trial in alone[:2]]
    assert [trial.value for trial in study.trials[:2]] == [trial.value for trial in alone[:2]]
    told = [line.split(" of ")[0] for text in printed for line in text.splitlines() if line.startswith("trial ")]
    assert sorted(told) == ["trial 1", "trial 2", "trial 3", "trial 4"], printed


def test_what_is_written_as_the_best_is_the_trial_with_the_highest_score(place, tmp_path):
    config = config_of(place)
    study = sweep.open_study(tmp_path, config)
    for rate, score in ((1e-3, 0.2), (3e-2, 0.7), (1e-3, 0.4)):
        study.enqueue_trial({"optimizer.learning_rate": str(rate)})
        trial = study.ask({f: sweep.distribution(f, w) for f, w in SPACE.items()})
        study.tell(trial, score)
    said = sweep.write(study, config, tmp_path, "hunt")
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["trial"] == 1 and best["overrides"] == {"optimizer.learning_rate": 3e-2}
    assert "best: trial 2" in said and "learning_rate=0.03" in best["flags"]


def test_trials_are_built_from_splits_that_hold_no_test_clip(place):
    config = config_of(place)
    corpus = crossval.open_features(config).corpus
    split = folds(config, corpus, 0.25)[0]
    tested = {corpus.clips[i].speaker for i in split.test}
    study = optuna.create_study()
    space = {field: sweep.distribution(field, what) for field, what in SPACE.items()}
    (trial,) = sweep.ask(study, space, config, 1)
    (member,) = sweep.attempt_of(trial, config, [crossval.splits.nest(split)[0]], place).members
    assert not len(member.split.test)
    seen = {corpus.clips[i].speaker for i in (*member.split.train, *member.split.dev)}
    assert len(seen) == 6 - len(tested) and not seen & tested


def test_drawn_values_lie_in_their_ranges_and_choices_come_back_as_they_were_written():
    space = {
        "optimizer.learning_rate": ("log", 1e-4, 1e-1), "model.cnn.channels": ("choice", (4,), (8,)),
        "train.epochs": ("int", 3, 7), "model.dropout": ("uniform", 0.1, 0.2),
    }  # fmt: skip
    config, study = tiny.get_config(), optuna.create_study()
    for _ in range(3):
        sweep.ask(study, {field: sweep.distribution(field, what) for field, what in space.items()}, config, 2)
    for trial in study.trials:
        found = sweep.overrides_of(trial.params, space)
        assert 1e-4 <= found["optimizer.learning_rate"] <= 1e-1 and 0.1 <= found["model.dropout"] <= 0.2
        assert found["train.epochs"] in range(3, 8) and found["model.cnn.channels"] in ((4,), (8,))
        override(config, "t", found)  # fits the config
    assert len({trial.params["optimizer.learning_rate"] for trial in study.trials}) == 6


@pytest.mark.parametrize("what", [("log", 0, 1), ("log", 2, 1), ("normal", 0, 1), ("choice",), ("int", 1), 3])
def test_a_range_that_cannot_be_is_named_with_what_can(what):
    with pytest.raises(UserError, match=r"config.sweep.space\['model.dropout'\].*'uniform', low, high"):
        sweep.distribution("model.dropout", what)
