"""A usual PyTorch pipeline: a Dataset that calls librosa, a DataLoader, two convolutional layers.

    python -m emoflax.benchmark.usual_pipeline CLIPS.csv METRICS.jsonl SEED

`time_to_result` compares with it. It imports nothing of EmoFlax. Public notebooks on RAVDESS load three seconds, from
half a second on; with librosa's defaults (22,050 Hz, 512 samples between frames) that makes 128 x 128 cells. Workers
stay alive between epochs, which most notebooks do not set and which is faster.
"""

import csv
import json
import sys

import librosa
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

MELS = FRAMES = 128
BATCH, WORKERS, EPOCHS = 32, 2, 100


class Clips(Dataset):
    """Rows of the table with columns path, label, part that belong to one part."""

    def __init__(self, table: str, part: str):
        with open(table, newline="") as file:
            rows = list(csv.DictReader(file))
        self.labels = sorted({row["label"] for row in rows})
        self.rows = [row for row in rows if row["part"] == part]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        row = self.rows[place]
        return torch.from_numpy(spectrogram(row["path"])), self.labels.index(row["label"])


def spectrogram(path: str) -> np.ndarray:
    """Float32 [1, MELS, FRAMES], of mean 0 and deviation 1."""
    wave, rate_hz = librosa.load(path, offset=0.5, duration=3.0)
    logmel = librosa.power_to_db(librosa.feature.melspectrogram(y=wave, sr=rate_hz, n_mels=MELS))
    logmel = librosa.util.fix_length(logmel, size=FRAMES, axis=1, constant_values=logmel.min())
    return ((logmel - logmel.mean()) / logmel.std())[None]


def network(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * MELS // 4 * FRAMES // 4, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, classes),
    )  # fmt: skip


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, sounds: torch.Tensor, labels: torch.Tensor) -> None:
    model.train()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(sounds), labels).backward()
    optimizer.step()


def accuracy(model: nn.Module, loader: DataLoader) -> float:
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for sounds, labels in loader:
            right += int((model(sounds).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def main(table: str, metrics: str, seed: str) -> None:
    torch.manual_seed(int(seed))
    train, dev = Clips(table, "train"), Clips(table, "dev")
    batches = DataLoader(train, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    held_out = DataLoader(dev, BATCH, num_workers=WORKERS, persistent_workers=True)
    model = network(len(train.labels))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, EPOCHS + 1):
        for sounds, labels in batches:
            train_step(model, optimizer, sounds, labels)
        with open(metrics, "a") as file:
            file.write(json.dumps({"epoch": epoch, "dev_accuracy": accuracy(model, held_out)}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
