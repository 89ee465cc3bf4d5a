"""The training loops that benchmarks/peers.py compares, one for each project, as published.

The harness trains with `harness.runs.train.train`, log lines included, at its default settings; on a GPU, a second row
has TF32 without compilation. Every other loop follows the code that its project publishes:

- torchcfm: examples/images/cifar10/train_cifar10.py and utils_cifar.py. A DataLoader with 4 workers over PIL pictures
  (flip, ToTensor, Normalize), drop_last; `icfm` (independent pairs, sigma 0), Adam 2e-4, clipping at 1, LambdaLR
  warm-up of 5,000 steps, an average (0.9999) by a Python loop over the state dict; fp32. The example's default is
  `otcfm`.
- flow_matching: examples/image/{train.py, training/train_loop.py, training/grad_scaler.py, training/data_transform.py,
  models/ema.py} and the CIFAR-10 command of its README. 10 workers, pinned memory, transforms v2; CondOTProbPath,
  skewed times, fp16 autocast with GradScaler on a GPU (neither on a CPU), AdamW 1e-4 with betas (0.9, 0.95), a separate
  norm for every gradient, no clipping, loss.item() each step and two running means of it (torchmetrics there, sums
  here), an average (0.999) by a Python loop over the parameters. No package contains the project's U-Net. Batch 64
  there.
- rectified-flow-pytorch: its Trainer class as packaged (rectified_flow.py): Adam 3e-4, clipping at 0.5, a DataLoader
  without workers, ema_pytorch (every 10 steps; the first 100 are copied), a line printed each step (discarded here);
  fp32. Batch 16 there.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.loops import fresh_results, now
from harness.components.backbones.unet import UNet
from harness.core.config import override
from harness.core.errors import Stopped
from harness.data.base import load
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.train import train


class Block(NamedTuple):
    """The task of each loop."""

    config: RunConfig
    warm_up: int
    """Steps before the clock starts."""
    steps: int
    """Timed steps."""
    threads: int

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    def network(self) -> nn.Module:
        """Return the harness's U-Net."""
        return self.config.build(load(self.config.dataset)).to(self.device).train()

    def pictures(self, transform: Callable) -> Pictures:
        """Return the training images as the other projects read them."""
        return Pictures(load(self.config.dataset).train, transform)  # type: ignore[arg-type]


class Pictures(Dataset):
    """Images in memory, converted to PIL images on access, as in torchvision's CIFAR10."""

    def __init__(self, images: Tensor, transform: Callable):
        self.arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.fromarray(self.arrays[index]))


def forever(loader: DataLoader) -> Iterator[Tensor]:
    """Yield batches, epoch after epoch."""
    while True:
        yield from loader


def timed(block: Block, steps: Iterator[Any]) -> float:
    """Return the seconds of the timed steps of a loop that yields after each step."""
    for _ in range(block.warm_up):
        next(steps)
    started = now()
    for _ in range(block.steps):
        next(steps)
    seconds = now() - started
    steps.close()  # type: ignore[attr-defined]
    return seconds


def harness(block: Block) -> float:
    """Return the seconds of the timed steps of `harness.runs.train.train`."""
    marks: list[float] = []

    def stop() -> bool:
        marks.append(now() if len(marks) in (block.warm_up, block.warm_up + block.steps) else 0.0)
        return len(marks) > block.warm_up + block.steps

    with fresh_results(), contextlib.suppress(Stopped):
        train(Run.of(override(block.config, {"train.threads": block.threads})), print, stop)
    return marks[block.warm_up + block.steps] - marks[block.warm_up]


def harness_eager(block: Block) -> float:
    """Time the harness without bf16 and compilation."""
    return harness(block._replace(config=override(block.config, {"train.precision": "tf32", "train.compile": "off"})))


def torchcfm(block: Block) -> float:
    """Time torchcfm's example on the common network."""
    network = block.network()
    return timed(block, torchcfm_steps(block, network, lambda t, x: network(x, t)))


def torchcfm_own(block: Block) -> float:
    """Time torchcfm's example on torchcfm's network of the same size."""
    from torchcfm.models.unet.unet import UNetModelWrapper

    size = block.config.backbone
    assert isinstance(size, UNet)
    network = UNetModelWrapper(
        dim=load(block.config.dataset).shape, num_res_blocks=size.blocks, num_channels=size.channels,
        channel_mult=list(size.multipliers), num_heads=4, attention_resolutions="16",
        num_head_channels=size.head_channels if size.channels >= 64 else -1, dropout=size.dropout,
    ).to(block.device)  # fmt: skip
    return timed(block, torchcfm_steps(block, network, network))


def torchcfm_steps(block: Block, network: nn.Module, velocity: Callable) -> Iterator[None]:
    """Train step by step as torchcfm's CIFAR-10 example does."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchvision import transforms

    centred = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor(), centred])
    loader = DataLoader(
        block.pictures(transform), block.config.train.batch_size, shuffle=True, num_workers=4, drop_last=True
    )
    average = copy.deepcopy(network)
    matcher = ConditionalFlowMatcher(sigma=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step, 5000) / 5000)
    for pictures in forever(loader):
        optimizer.zero_grad()
        data = pictures.to(block.device)
        t, xt, target = matcher.sample_location_and_conditional_flow(torch.randn_like(data), data)
        (velocity(t, xt) - target).square().mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        kept = average.state_dict()
        new = network.state_dict()
        for name, value in new.items():
            kept[name].copy_(0.9999 * kept[name] + (1 - 0.9999) * value)
        yield


def flow_matching(block: Block) -> float:
    """Time flow_matching's image example on the common network."""
    return timed(block, flow_matching_steps(block, block.network()))


def flow_matching_loader(block: Block) -> DataLoader:
    """Return the images as flow_matching's image example reads them."""
    from torchvision.transforms import v2

    transform = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    size = block.config.train.batch_size
    cuda = block.device == "cuda"
    pictures = block.pictures(transform)
    return DataLoader(pictures, size, shuffle=True, num_workers=10, pin_memory=cuda, drop_last=True)


def skewed_times(number: int, device: str) -> Tensor:
    """Draw times [B] as flow_matching's image example does."""
    return (1 / (1 + (1.2 * torch.randn(number, device=device) - 1.2).exp())).clip(0.0001, 1)


def average_in(shadows: list[Tensor], network: nn.Module, updates: Tensor) -> None:
    """Update the average of the weights as flow_matching's image example does."""
    updates += 1
    done = updates.item()
    with torch.no_grad():
        for shadow, weight in zip(shadows, network.parameters(), strict=True):
            shadow.sub_((1 - min(0.999, (1 + done) / (10 + done))) * (shadow - weight))


def flow_matching_steps(block: Block, network: nn.Module) -> Iterator[None]:
    """Train step by step as flow_matching's image example does."""
    from flow_matching.path import CondOTProbPath

    cuda = block.device == "cuda"
    path = CondOTProbPath()
    torch.backends.cudnn.benchmark = True
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.95))
    scaler = torch.amp.GradScaler(block.device, enabled=cuda)
    shadows = [p.detach().clone() for p in network.parameters()]
    updates = torch.tensor(0, device=block.device)
    sums = torch.zeros(2, device=block.device)
    for pictures in forever(flow_matching_loader(block)):
        optimizer.zero_grad()
        data = 2 * pictures.to(block.device, non_blocking=True) - 1
        t = skewed_times(len(data), block.device)
        sample = path.sample(t=t, x_0=torch.randn_like(data), x_1=data)
        with torch.autocast(block.device, torch.float16, enabled=cuda):
            loss = (network(sample.x_t, t) - sample.dx_t).square().mean()
        if not math.isfinite(loss.item()):
            raise ValueError("the loss is not finite")
        for total in sums:
            total += loss.detach()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.stack([p.grad.detach().norm() for p in network.parameters() if p.grad is not None]).norm()
        scaler.step(optimizer)
        scaler.update()
        average_in(shadows, network, updates)
        yield
    torch.backends.cudnn.benchmark = False


class Called(nn.Module):
    """A network with the signature that rectified-flow-pytorch calls."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """Return the velocity at x [B, ...] and times [B]."""
        return self.network(x, times)


def rectified_flow(block: Block) -> float:
    """Time rectified-flow-pytorch's Trainer on the common network; a hook reads the clock at each call of the model."""
    from rectified_flow_pytorch import RectifiedFlow, Trainer
    from torchvision import transforms

    marks: list[float] = []
    first = block.warm_up
    last = block.warm_up + block.steps
    flow = RectifiedFlow(Called(block.network()), data_shape=load(block.config.dataset).shape)
    flow.register_forward_pre_hook(lambda *_: marks.append(now() if len(marks) in (first, last) else 0.0))
    transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        trainer = Trainer(
            flow, dataset=block.pictures(transform), num_train_steps=last + 1, batch_size=block.config.train.batch_size,
            checkpoints_folder=f"{folder}/checkpoints", results_folder=f"{folder}/results",
            save_results_every=10 * last, checkpoint_every=10 * last,
        )  # fmt: skip
        trainer()
    return marks[last] - marks[first]


LOOPS: dict[str, Callable[[Block], float]] = {
    "harness": harness,
    "harness, eager": harness_eager,
    "torchcfm": torchcfm,
    "torchcfm, own U-Net": torchcfm_own,
    "flow_matching": flow_matching,
    "rectified-flow-pytorch": rectified_flow,
}
