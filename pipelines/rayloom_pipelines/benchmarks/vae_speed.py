"""Speed of the VAE itself, side by side in one process: training step and likelihood.

*Step*: forward, backward and Adam on a batch of 128 stored Fashion-MNIST-sized images, threshold
binarised; rayloom's model against the same network written out by hand in plain PyTorch, and
against pythae's where it is installed (its model alone, not its trainer or loader).
*Likelihood*: K importance samples per image, against pythae's `get_nll`.

Sides take turns and the best of many turns counts, so that another process on the machine disturbs
both alike.
"""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec, Turn
from rayloom.models.autoencoders.vae import VAE, VAEConfig
from rayloom_pipelines.benchmarks import pythae_bridge as bridge

SPEC = DataSpec({"image": FieldSpec((1, 28, 28), "uint8", "image")}, "noise")
LATENT_DIM = 16


def run(
    *, turns: int = 30, batch_size: int = 128, images: int = 20, importance_samples: int = 200
) -> dict[str, Any]:
    """Measure everything.

    Args:
        turns: Times each side's step is measured.
        batch_size: Examples per training step.
        images: Test images of the likelihood comparison.
        importance_samples: K.

    Returns:
        `step_ms`: by network and side; `nll_ms_per_image` by side; `threads`, `torch`.
    """
    x = torch.randint(
        0, 256, (batch_size, 1, 28, 28), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)
    with_pythae = find_spec("pythae") is not None
    steps = {}
    for network in ("mlp", "conv"):
        config = VAEConfig(
            latent_dim=LATENT_DIM,
            network=network,
            likelihood={"name": "bernoulli", "binarise": "threshold"},  # type: ignore[arg-type]
        )
        sides = {"rayloom": _rayloom_step(VAE(config, SPEC), x), "by hand": _bare_step(network, x)}
        if with_pythae and network == "mlp":
            sides["pythae"] = _pythae_step(x)
        steps[network] = _best(sides, turns)
    result = {"step_ms": steps, "threads": torch.get_num_threads(), "torch": torch.__version__}
    if with_pythae:
        result["nll_ms_per_image"] = _likelihood(x[:images], importance_samples)
        result["importance_samples"] = importance_samples
    return result


def _best(sides: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Milliseconds of each side's best turn; the sides alternate."""
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(turns + 2):
        for name, act in sides.items():
            started = time.perf_counter()
            act()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - started))
    return best


def _rayloom_step(model: VAE, x: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    batch, step = {"image": x}, 0

    def act() -> None:
        nonlocal step
        step += 1
        rng = Noise(0, step=step, total=len(x))
        loss = model.loss(batch, rng=rng, turn=Turn(step))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return act


class _ByHand(nn.Module):
    """What a person writes who needs just this one VAE."""

    def __init__(self, network: str) -> None:
        super().__init__()
        if network == "mlp":
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU())
            self.head = nn.Linear(512, 2 * LATENT_DIM)
            self.decoder = nn.Sequential(
                nn.Linear(LATENT_DIM, 512),
                nn.ReLU(),
                nn.Linear(512, 784),
                nn.Unflatten(1, (1, 28, 28)),
            )
            return
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = nn.Linear(3136, 2 * LATENT_DIM)
        self.decoder = nn.Sequential(
            nn.Linear(LATENT_DIM, 3136),
            nn.ReLU(),
            nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.head(self.encoder(x)).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        logits = self.decoder(z)
        recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = -0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum()
        return (recon + kl) / len(x)


def _bare_step(network: str, x: Tensor) -> Callable[[], None]:
    model = _ByHand(network)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def act() -> None:
        loss = model((x > 127).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return act


def _pythae_step(x: Tensor) -> Callable[[], None]:
    model = bridge.make_theirs(SPEC)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def act() -> None:
        loss = model({"data": (x > 127).float()}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return act


def _likelihood(x: Tensor, num_samples: int) -> dict[str, float]:
    """Milliseconds per image, and the two estimates (equal up to sampling noise)."""
    ours, theirs = bridge.make_ours(SPEC, 0), bridge.make_theirs(SPEC)
    bridge.to_theirs(ours, theirs)
    bridge.assert_equal(ours, theirs, x)
    seen = ours.observe(x, None)
    found: dict[str, float] = {}

    def by_rayloom() -> None:
        rng = Noise(0, total=len(x))
        found["rayloom"] = float(ours.nll({"image": x}, num_samples=num_samples, rng=rng).mean())

    def by_pythae() -> None:
        with torch.no_grad():
            found["pythae"] = -float(theirs.get_nll(seen, n_samples=num_samples, batch_size=100))

    best = _best({"rayloom": by_rayloom, "pythae": by_pythae}, 5)
    per_image = {name: value / len(x) for name, value in best.items()}
    return per_image | {f"{name} estimate, nats": value for name, value in found.items()}


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = ["| what | side | ms | rayloom is faster by |", "|---|---|---|---|"]
    groups = [(f"step, {name}", sides) for name, sides in result["step_ms"].items()]
    if "nll_ms_per_image" in result:
        sides = {k: v for k, v in result["nll_ms_per_image"].items() if "estimate" not in k}
        groups.append((f"NLL per image, K={result['importance_samples']}", sides))
    for what, sides in groups:
        for side, value in sides.items():
            ratio = "" if side == "rayloom" else f"{value / sides['rayloom']:.2f}x"
            lines.append(f"| {what} | {side} | {value:.2f} | {ratio} |")
    return "\n".join(lines)
