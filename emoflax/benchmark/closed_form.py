"""How long a closed-form model takes to fit many clips, and how much memory.

    python -m emoflax.benchmark.closed_form --clips=100000 --features=14530

Random functionals, made in memory, of 8 emotions and 100 speakers, fitted as `configs/functionals.py` is, the penalty
chosen on left-out speakers. The UAR of left-out speakers is printed: `--signal` standard deviations separate the
emotions, and without them it must be chance. Prints a table and writes closed_form.json into --workdir.
"""

import argparse
import time

import numpy as np
from flax import nnx

from emoflax.benchmark import memory, script
from emoflax.configs import functionals
from emoflax.models import ridge
from emoflax.models.functionals import Ridge

CLASSES, SPEAKERS = 8, 100


def random_functionals(clips: int, features: int, signal: float) -> tuple[np.ndarray, ridge.Labelled]:
    """Float32 [clips, features], made without a second copy, and the clips' labels and speakers."""
    rng = np.random.default_rng(0)
    label_N, speaker_N = rng.integers(CLASSES, size=clips), np.arange(clips) % SPEAKERS
    x_NxD = np.empty((clips, features), np.float32)
    centre_CxD = (signal / np.sqrt(features) * rng.standard_normal((CLASSES, features))).astype(np.float32)
    for rows in ridge.row_blocks(clips):
        rng.standard_normal(out=x_NxD[rows], dtype=np.float32)
        x_NxD[rows] += centre_CxD[label_N[rows]]
    return x_NxD, ridge.Labelled.of(label_N, CLASSES, speaker_N)


def main(options: argparse.Namespace) -> None:
    ridges = tuple(functionals.get_config().model.ridge.ridges)
    x_NxD, labelled = random_functionals(options.clips, options.features, options.signal)
    before_gib = memory.peak_mib() / 1024
    model = Ridge(options.features, ridges=ridges, classes=CLASSES, dtype="float32", rngs=nnx.Rngs(0))
    begin = time.perf_counter()
    solution = model.fit(x_NxD, labelled)
    found = {
        "clips": options.clips, "features": options.features, "signal": options.signal, "ridges": len(ridges),
        "seconds": time.perf_counter() - begin, "features_gib": x_NxD.nbytes / 2**30,
        "peak_before_gib": before_gib, "peak_gib": memory.peak_mib() / 1024, "left_out_uar": solution.uar,
    }  # fmt: skip
    table = (
        "| clips | features | penalties | fit, s | features, GiB | peak memory, GiB | left-out UAR |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| {options.clips} | {options.features} | {len(ridges)} | {found['seconds']:.0f} "
        f"| {found['features_gib']:.1f} | {found['peak_gib']:.1f} | {100 * solution.uar:.1f} % |"
    )
    script.write(options.workdir / "closed_form.json", found, table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2_000)
    parser.add_argument("--signal", type=float, default=3.0, help="distance of the emotions' centres, in deviations")
    script.run(main, parser)
