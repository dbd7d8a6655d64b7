"""What a finished run leaves in MLflow's store, and that a run without MLflow ends before it begins, or goes on."""

import pytest

from emoflax.reporting import mlflow_log


def test_a_folder_is_made_the_address_of_a_store_and_an_address_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mlflow_log.address("kept here") == (tmp_path / "kept here").as_uri()
    for uri in ("http://127.0.0.1:5000", "https://host/mlflow", "sqlite:///mlflow.db", "file:///somewhere"):
        assert mlflow_log.address(uri) == uri


def test_without_mlflow_a_command_that_asks_for_it_ends_at_once_with_the_name_of_the_extra(monkeypatch):
    monkeypatch.setattr(mlflow_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(mlflow_log.NotInstalled, match=r"config\.log\.mlflow.*pip install 'emoflax\[mlflow\]'"):
        mlflow_log.check()


def test_runs_models_epochs_settings_and_files_come_back_from_the_store_as_they_were_logged(tmp_path):
    pytest.importorskip("mlflow", reason="MLflow brings some twenty packages: pip install 'emoflax[mlflow]'")
    (tmp_path / "report.md").write_text("# a report\n")
    lines = [{"epoch": n, "loss": 1 / n, "dev_uar": None if n % 2 else 0.1 * n} for n in range(1, 1201)]
    many = {f"field{n}": n for n in range(130)}
    scores = {"test/uar": 0.5, "test/recall très content": 0.25}
    run = mlflow_log.Entry("run", many, scores, files=[tmp_path / "report.md"], tags={"commit": "abc"})
    models = [mlflow_log.Entry(f"seed{n}", {"seed": n}, {"test/uar": 0.4 + n / 10}, lines) for n in range(2)]
    for _ in range(2):  # the second time the experiment is there already
        mlflow_log.log(str(tmp_path / "store"), "an experiment", run, models)

    from mlflow.tracking import MlflowClient

    client = MlflowClient(mlflow_log.address(str(tmp_path / "store")))
    experiment = client.get_experiment_by_name("an experiment")
    found = client.search_runs([experiment.experiment_id])
    whole = [one for one in found if one.info.run_name == "run"]
    assert len(found) == 6 and len(whole) == 2 and {one.info.status for one in found} == {"FINISHED"}
    assert whole[0].data.params == {name: str(value) for name, value in many.items()}
    assert whole[0].data.metrics == {"test/uar": 0.5, "test/recall tr_s content": 0.25}
    assert whole[0].data.tags["commit"] == "abc"
    assert [file.path for file in client.list_artifacts(whole[0].info.run_id)] == ["report.md"]
    below = [one for one in found if one.data.tags.get("mlflow.parentRunId") == whole[0].info.run_id]
    assert sorted(one.info.run_name for one in below) == ["seed0", "seed1"]
    loss = client.get_metric_history(below[0].info.run_id, "loss")
    assert {(x.step, x.value) for x in loss} == {(line["epoch"], line["loss"]) for line in lines}
    assert len(client.get_metric_history(below[0].info.run_id, "dev_uar")) == 600
