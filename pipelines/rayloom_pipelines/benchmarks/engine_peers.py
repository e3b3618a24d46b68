"""The conv VAE of `bench engine` in PyTorch Lightning's and pythae's own training loops.

Each as its documentation has it: Lightning with a `DataLoader` over the same tensors, gradient
clipping by the trainer, the moving average as a callback and `self.log`; pythae with its
`BaseTrainer` (it has neither clipping nor averages, so it does less per step). Both get the loss of
the bare loop. Lightning shuffles with `num_workers=0`, the fastest for tensors in memory.
"""

import importlib.util
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rayloom.data import Dataset
from rayloom_pipelines.benchmarks.engine_sides import (
    CASES,
    CLIP,
    DECAY,
    LOG_EVERY,
    LR,
    BareSide,
    EngineSide,
    elbo_terms,
    make_model,
)

IMAGES = 6_400  # of the training split: 50 steps an epoch


def lightning_seconds(dataset: Dataset, *, epochs: int) -> list[float]:
    """Seconds per step of each epoch after the first."""
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    case = CASES["conv"]

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.vae = make_model(dataset.spec, case["model"])

        def training_step(self, batch: Any, index: int) -> Tensor:
            reconstruction, kl = elbo_terms(self.vae, batch[0])
            loss = (reconstruction + kl).mean()
            parts = {"loss": loss, "reconstruction": reconstruction.mean(), "kl": kl.mean()}
            self.log_dict(parts, on_step=True)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=LR, weight_decay=0.0, fused=True)

    class Average(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.average = [p.detach().clone() for p in module.parameters()]

        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, list(module.parameters()), 1 - DECAY)

    times: list[float] = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, *rest: Any) -> None:
            self.start = time.perf_counter()

        def on_train_epoch_end(self, trainer: Any, *rest: Any) -> None:
            times.append((time.perf_counter() - self.start) / trainer.num_training_batches)

    for name in ("pytorch_lightning", "lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            gradient_clip_val=CLIP,
            log_every_n_steps=LOG_EVERY,
            callbacks=[Average(), Watch()],
            logger=pl.loggers.CSVLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        tensors = TensorDataset(_images(dataset))
        loader = DataLoader(tensors, batch_size=case["batch_size"], shuffle=True)
        trainer.fit(Module(), loader)
    return times[1:]


def pythae_seconds(dataset: Dataset, *, epochs: int) -> list[float]:
    """Seconds per step of each epoch after the first."""
    from pythae.models import VAE as TheirVAE
    from pythae.models import VAEConfig as TheirConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    from rayloom_pipelines.benchmarks.pythae_bridge import quiet

    case = CASES["conv"]
    ours = make_model(dataset.spec, case["model"])

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = ours.encoder, ours.posterior.linear

        def forward(self, x: Tensor) -> Any:
            mean, log_std = self.head(self.net(x)).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=2 * log_std)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = ours.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))

    times: list[float] = []

    class Timed(BaseTrainer):
        def train_step(self, epoch: int) -> Any:
            start = time.perf_counter()
            result = super().train_step(epoch)
            times.append((time.perf_counter() - start) / len(self.train_loader))
            return result

    settings = TheirConfig(
        input_dim=tuple(dataset.spec.image.shape),
        latent_dim=case["model"]["latent_dim"],
        reconstruction_loss="bce",
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        from pythae.data.datasets import BaseDataset

        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=LR,
            per_device_train_batch_size=case["batch_size"],
            optimizer_cls="AdamW",
            optimizer_params={"weight_decay": 0.0},
            no_cuda=True,
        )
        x = (_images(dataset) > 127).float()
        model = TheirVAE(settings, encoder=Encoder(), decoder=Decoder())
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            Timed(model, BaseDataset(x, torch.zeros(len(x))), training_config=config).train()
        finally:
            logging.disable(before)
    return times[1:]


def _images(dataset: Dataset) -> Tensor:
    return dataset.split("train").take(torch.arange(IMAGES))["image"].clone()


PEERS: dict[str, tuple[str, Callable[..., list[float]]]] = {
    "PyTorch Lightning": ("pytorch_lightning", lightning_seconds),
    "pythae": ("pythae", pythae_seconds),
}


def compare_peers(
    dataset: Dataset, *, epochs: int = 3, rounds: int = 3, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Steps of the peers beside those of the engine and the bare loop, taking turns.

    Args:
        dataset: Fashion-MNIST.
        epochs: Passes over 6,400 images per turn; the first is warm-up.
        rounds: Turns per side.
        say: Told one line per side.
    """
    case = CASES["conv"]
    block = IMAGES // case["batch_size"]
    peers = {n: f for n, (module, f) in PEERS.items() if importlib.util.find_spec(module)}
    for name in PEERS.keys() - peers.keys():
        say(f"{name}: not installed (pip install 'rayloom[bench]')")
    if not peers:
        return []
    own: dict[str, Any] = {
        "rayloom": EngineSide(case, dataset),
        "bare loop": BareSide(case, dataset),
    }
    for side in own.values():
        side.block(block)
    times: dict[str, list[float]] = {name: [] for name in [*own, *peers]}
    for _ in range(rounds):
        for name, peer in peers.items():
            times[name] += peer(dataset, epochs=epochs)
            for mine, side in own.items():
                times[mine] += [side.block(block) / block for _ in range(epochs - 1)]
    rows = []
    for name, values in times.items():
        row = {"side": name, "ms": statistics.median(values) * 1e3}
        row["times_rayloom"] = row["ms"] / (statistics.median(times["rayloom"]) * 1e3)
        rows.append(row)
        say(f"{name:<18} {row['ms']:8.3f} ms/step   {row['times_rayloom']:.3f} x rayloom")
    return rows
