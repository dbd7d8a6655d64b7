"""Recordings for manifests."""

import numpy as np
import pytest
import soundfile


@pytest.fixture
def folder(tmp_path):
    """a/1.wav, a/2.wav, b/3.wav, b/4.wav, which the manifests of `test_corpora_manifest` list."""
    for name in ("a/1.wav", "a/2.wav", "b/3.wav", "b/4.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.zeros(80), 8000)
    return tmp_path
