"""Memory is bounded by what one clip needs, not by how many there are."""

import subprocess
import sys

import cli
import numpy as np
import soundfile

SCRIPT = """
import resource, sys
from emoflax.configs.default import get_config
from emoflax.data.clip import Clip, Corpus
from emoflax.precompute.build import log_mels

if __name__ == "__main__":
    wav, cache, count = sys.argv[1:]
    clips = tuple(Clip(f"{i:05d}", "x", "s", wav) for i in range(int(count)))
    config = get_config()
    log_mels(Corpus("many", ("x",), clips), config.audio.to_dict(), cache, config.precompute.to_dict() | {"workers": 1})
    print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def test_ten_times_the_clips_need_no_more_memory(tmp_path):
    wave = 0.1 * np.random.default_rng(0).standard_normal(48_000)
    soundfile.write(tmp_path / "a.wav", wave, 16_000)
    (tmp_path / "script.py").write_text(SCRIPT)
    peak_kib = [
        int(
            subprocess.run(
                [sys.executable, "script.py", "a.wav", f"cache{count}", str(count)], cwd=tmp_path, check=True,
                env=cli.ENVIRONMENT | {"PYTHONPATH": str(cli.ROOT)}, stdout=subprocess.PIPE,
            ).stdout
        )
        for count in (300, 3000)
    ]  # fmt: skip
    # 3,000 of these log-mels are 70 MB: holding them would be seen.
    assert peak_kib[1] < peak_kib[0] + 25_000
