"""Small classifier of 8x8 digits, whose features the metrics compare.

To train it again, run

    python -m harness.evaluation.digits_classifier

It takes at most 3 minutes on one core and replaces digits_classifier.safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).with_name("digits_classifier.safetensors")


class DigitsClassifier(nn.Module):
    """Network that maps 8x8 grey images to 64 features and 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.feature = nn.Linear(64 * 16, 64)
        self.logits = nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        """Return features [B, 64] of uint8 images [B, C, 8, 8], after averaging the channels."""
        grey = images.float().mean(1, keepdim=True) / 127.5 - 1
        return F.relu(self.feature(self.convolutions(grey).flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, 10] of uint8 images [B, C, 8, 8]."""
        return self.logits(self.features(images))


def train_classifier(steps: int, batch_size: int = 128, seed: int = 0) -> tuple[DigitsClassifier, float]:
    """Train on randomly shifted training digits; return the classifier and its held-out accuracy in [0, 1]."""
    from harness.data.images import Digits

    torch.manual_seed(seed)
    data = Digits().load()
    train = data.train
    target = data.classes
    held_out = data.held_out
    assert isinstance(train, Tensor)
    assert isinstance(held_out, Tensor)
    assert target is not None
    network = DigitsClassifier()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(train), (batch_size,))
        down, right = torch.randint(0, 3, (2,)).tolist()
        shifted = F.pad(train[batch], (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]
        loss = F.cross_entropy(network(shifted), target[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        accuracy = (network(held_out).argmax(1) == data.held_out_classes).double().mean().item()
    return network, accuracy


def make(path: Path, steps: int) -> None:
    """Train the classifier, write its weights to `path` and print its held-out accuracy."""
    from safetensors.torch import save_file

    classifier, accuracy = train_classifier(steps)
    save_file(classifier.state_dict(), path)
    print(f"held-out accuracy {accuracy:.4f}; wrote {path}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make(WEIGHTS, steps=3000)
