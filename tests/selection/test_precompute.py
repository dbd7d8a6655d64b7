"""--mode=precompute of a config with candidates."""

import nested_run

from emoflax import job
from emoflax.corpora import synthetic
from emoflax.experiment import checks
from emoflax.selection import crossval


def test_precompute_fills_the_cache_for_every_candidate_so_that_the_cross_validation_computes_nothing(tmp_path):
    synthetic.make(tmp_path / "voices", speakers=2, clips_per_emotion=1)
    config = nested_run.config_in(tmp_path)
    checks.prepare(config)
    job.precompute(config)

    def shards():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("shard-*.npy")}

    filled = shards()
    assert {path.parent.name.split("-")[0] for path in filled} == {"logmel", "functionals"}
    for candidate in crossval.candidates_of(config).values():
        crossval.open_features(candidate)
    assert shards() == filled
