"""Shards of joined corpora: each clip has the features in its own corpus's cache, and only new ones are made."""

import numpy as np
import pytest
import soundfile

from emoflax import corpora
from emoflax.configs import default
from emoflax.corpora import joined
from emoflax.data.features import Features
from emoflax.data.joined_shards import of_sources
from emoflax.precompute import build


@pytest.fixture
def two(tmp_path):
    """Two corpora of recordings of the same names."""
    made = []
    for seed, name in enumerate(("mine", "hers")):
        (tmp_path / name).mkdir()
        rows = ["file,emotion,speaker"]
        for i in range(4):
            samples = 0.1 * np.random.default_rng([seed, i]).normal(size=8000 + 800 * i)
            soundfile.write(tmp_path / name / f"{i}.wav", samples, 16_000)
            rows.append(f"{i}.wav,{'happy' if i % 2 else 'sad'},s{i // 2}")
        (tmp_path / name / f"{name}.csv").write_text("\n".join(rows))
        made.append(corpora.load("manifest", str(tmp_path / name / f"{name}.csv"), ""))
    return made


def test_each_corpus_keeps_its_cache_and_a_choice_of_clips_needs_no_other(two, tmp_path):
    config = default.get_config()
    audio, precompute = config.audio.to_dict(), config.precompute.to_dict() | {"workers": 1}

    def compute(source):
        return build.waves(source, audio, str(tmp_path / "cache"), precompute)

    corpus = joined.join(two)
    features = Features(corpus, {"wave": of_sources(corpus, compute)})
    made = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert made == ["manifest-hers", "manifest-mine"]
    for source in two:
        alone = Features(source, {"wave": compute(source)})
        for place, clip in enumerate(source.clips):
            there = [c.id for c in corpus.clips].index(f"{source.name}/{clip.id}")
            np.testing.assert_array_equal(features.get("wave", there), alone.get("wave", place))
            assert features.scale(there) == alone.scale(place)
            assert features.digests[f"{source.name}/{clip.id}"] == alone.digests[clip.id]
    positions = np.arange(len(corpus.clips))
    assert features.lengths("wave", positions).tolist() == [len(features.get("wave", i)) for i in positions]
    before = sorted((tmp_path / "cache").rglob("*"))
    chosen = joined.choose(corpus, {"happy": "calm"}, (), ("manifest-mine:s0", "manifest-hers:s1"))
    some = Features(chosen, {"wave": of_sources(chosen, compute)})
    one = joined.choose(two[0], {}, (), ("s1",))
    few = Features(one, {"wave": of_sources(one, compute)})
    assert sorted((tmp_path / "cache").rglob("*")) == before
    assert len(some.readable(np.arange(4))) == 4 and len(few.readable(np.arange(2))) == 2
    np.testing.assert_array_equal(few.get("wave", 0), Features(two[0], {"wave": compute(two[0])}).get("wave", 2))
