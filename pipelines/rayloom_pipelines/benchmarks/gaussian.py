"""The baseline of flows: a full-covariance Gaussian fitted to a data set's training rows.

    python -m rayloom_pipelines.benchmarks.gaussian mnist-10k        test nats and bits, by ridge

Pictures are dequantised as Glow's are; the ridge, added to the variances, is the best of those
tried on the test rows themselves, which flatters the Gaussian.
"""

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from rayloom.config.sections import DataConfig
from rayloom.data import open_dataset
from rayloom.data.dataset import Split

RIDGES = (0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)


def baseline(name: str) -> dict[str, float]:
    """Mean -log p of the test rows under the best Gaussian.

    Args:
        name: Of a data set with a field `image` or `vector`.

    Returns:
        `nats`, `ridge`, and of pictures `bpd`; `nats` are of the 256 levels then.
    """
    dataset = open_dataset(DataConfig(name=name))
    picture = "image" in dataset.spec.fields
    noise = torch.Generator().manual_seed(0)
    train, test = (_rows(dataset.split(s), picture, noise) for s in ("train", "test"))
    dims = train.shape[1]
    offset = dims * math.log(256) if picture else 0.0
    found = {ridge: _nats(train, test, ridge) + offset for ridge in RIDGES}
    best = min(found, key=lambda ridge: found[ridge])
    result = {"nats": found[best], "ridge": best}
    if picture:
        result["bpd"] = found[best] / (dims * math.log(2))
    return result


def _rows(split: Split, picture: bool, noise: torch.Generator) -> Tensor:
    rows = split.take(torch.arange(len(split)))["image" if picture else "vector"]
    rows = rows.double().flatten(1)
    if not picture:
        return rows
    return (rows + torch.rand(rows.shape, generator=noise, dtype=torch.float64)) / 256


def _nats(train: Tensor, test: Tensor, ridge: float) -> float:
    mean = train.mean(0)
    centred = train - mean
    covariance = centred.T @ centred / len(train)
    factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(mean), dtype=torch.float64))
    z = torch.linalg.solve_triangular(factor, (test - mean).T, upper=False)
    log_det = float(factor.diagonal().log().sum())
    return float(0.5 * z.square().sum(0).mean()) + log_det + 0.5 * len(mean) * math.log(2 * math.pi)


def main(names: Sequence[str]) -> None:
    """Print the baseline of each data set."""
    for name in names:
        told = ", ".join(f"{key} {value:.4g}" for key, value in baseline(name).items())
        sys.stdout.write(f"{name}: {told}\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["mnist-10k", "eight-gaussians", "two-moons"])
