"""RAVDESS's speech part as a tensorflow-datasets builder that needs no TensorFlow, to prepare or to read.

    import emoflax.corpora.ravdess_speech  # registers it
    builder = tfds.builder("ravdess_speech", data_dir=..., file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=FOLDER_OR_NONE))
    source = builder.as_data_source(split="train")

`features.Audio` and `dl_manager.extract` would need TensorFlow: the samples are a plain Tensor feature, and ravdess.py
finds, checks and opens the archive.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from emoflax.corpora import ravdess
from emoflax.data.clip import Clip

_CITATION = """@article{livingstone2018ravdess,
  title={The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)},
  author={Livingstone, Steven R. and Russo, Frank A.},
  journal={PLoS ONE}, volume={13}, number={5}, pages={e0196391}, year={2018}
}"""


class RavdessSpeech(tfds.core.GeneratorBasedBuilder):
    """1440 clips of 24 actors in one split, 'train'; test speakers are chosen by the user."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    # The folder of download checksums, of which there are none; to find it, tfds 4.9.10 would need
    # importlib_resources, which it does not install.
    code_path = None
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Optional: put {ravdess.ZIP_NAME}, or the folders Actor_01 to Actor_24, into manual_dir. "
        "Where it is empty or absent, the archive is downloaded from Zenodo."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "audio": tfds.features.Tensor(
                shape=(None,), dtype=np.int16, encoding="bytes", doc="mono; stereo is mixed down"
            ),
            "sample_rate_hz": tfds.features.Scalar(dtype=np.int32),  # 48 000 as published
            "label": tfds.features.ClassLabel(names=list(ravdess.LABELS)),
            "speaker": tfds.features.Text(doc="actor, 01 to 24; odd ones are men"),
            "text": tfds.features.Text(doc="the sentence that is spoken"),
            "intensity": tfds.features.ClassLabel(names=["normal", "strong"]),
            "repetition": tfds.features.Scalar(dtype=np.int32, doc="1 or 2"),
            "clip_id": tfds.features.Text(doc="such as Actor_01/03-01-05-01-02-01-01"),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Speech of RAVDESS: 24 professional actors, 8 emotions, 2 sentences. CC BY-NC-SA 4.0.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("audio", "label"),
            homepage="https://zenodo.org/records/1188976",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        try:
            folder = str(dl_manager.manual_dir)
        except AssertionError as absent:  # raised by tfds where manual_dir is empty or not there
            logging.info("%s", absent)
            folder = ""
        corpus = ravdess.load(folder, str(dl_manager.download_dir))
        return {"train": self._generate_examples(corpus.clips)}

    def _generate_examples(self, clips: tuple[Clip, ...]) -> Iterator[tuple[str, dict]]:
        import soundfile  # needed to prepare, not to read

        for clip in clips:
            samples, sample_rate_hz = soundfile.read(clip.path, dtype="int16", always_2d=True)
            _, _, _, intensity, _, repetition, _ = clip.id.split("/")[1].split("-")
            yield (
                clip.id,
                {
                    "audio": np.round(samples.mean(axis=1)).astype(np.int16),
                    "sample_rate_hz": sample_rate_hz,
                    "label": clip.label,
                    "speaker": clip.speaker,
                    "text": clip.text,
                    "intensity": int(intensity) - 1,
                    "repetition": int(repetition),
                    "clip_id": clip.id,
                },
            )
