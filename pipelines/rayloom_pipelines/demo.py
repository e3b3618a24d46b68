"""`make demo`: a VAE on real pictures and a DQN that balances a pole, and what to open of them."""

import argparse
import os
import sys
import time
from pathlib import Path

from rayloom.core.errors import RayloomError, UserError
from rayloom_pipelines import api
from rayloom_pipelines.console import Console, duration
from rayloom_pipelines.facade import Run
from rayloom_pipelines.run.quiet import quiet

PICTURES = ("fashion-mnist", "mnist-10k", "digits")  # the first that can be had
CONFIGS = {
    "fashion-mnist": "autoencoders/vae-fashion",
    "mnist-10k": "autoencoders/vae-mnist",
    "digits": "autoencoders/vae-digits",
}
EPOCHS = {"fashion-mnist": 3}  # the others train to the end of their configs


def main(argv: list[str] | None = None) -> int:
    """Train both, write pictures and a film, print what to open. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder of the results")
    parser.add_argument("--data", choices=PICTURES, help="default: the first that can be had")
    parser.add_argument("--smoke", action="store_true", help="the same in seconds")
    given = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does
    try:
        began = time.monotonic()
        console = Console()
        model = train_model(given.data, console, smoke=given.smoke)
        if model.exit_code:
            return model.exit_code
        agent = api.train("rl/dqn-cartpole", observer=console, smoke=given.smoke)
        took = time.monotonic() - began
        if agent.exit_code:
            return agent.exit_code
        show(model, agent, given.out, took)
        return 0
    except RayloomError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code


def train_model(wanted: str | None, console: Console, *, smoke: bool) -> Run:
    """The VAE on the first data set that can be had.

    Raises:
        UserError: None can.
    """
    from rayloom.data.preparation import prepare

    for name in [wanted] if wanted else PICTURES:
        try:
            with quiet(None):
                prepare(name)
        except UserError as error:
            if name in (wanted, PICTURES[-1]):
                raise
            first = str(error).partition("\n")[0]
            console.on_message(f"{name} cannot be had here, trying another: {first}")
            continue
        changes = [f"train.epochs={EPOCHS[name]}"] if name in EPOCHS else []
        return api.train(CONFIGS[name], changes, observer=console, smoke=smoke)
    raise UserError("no data set can be had")


def show(model: Run, agent: Run, out: Path, took: float) -> None:
    """Write samples, reconstructions and the film; print what to open."""
    from rayloom.media import Images
    from rayloom.media.writers import encode

    out.mkdir(parents=True, exist_ok=True)
    with quiet(None):
        samples = out / "samples.png"
        samples.write_bytes(encode(Images(model.sample(64, seed=0)), ".png"))
        pairs = out / "reconstructions.png"
        model.show("pictures/reconstructions").save(pairs)
        film = out / "cartpole.mp4"
        returns = agent.play(film, episodes=1, seed=0)
        scores = agent.evaluate(episodes=100)
    lines = [
        "",
        f"trained in {duration(took)}; open:",
        f"  {samples}            64 samples of the VAE",
        f"  {pairs}    test pictures beside their reconstructions",
        f"  {film}          the agent, return {returns[0] if returns else 'cut'}",
        "  .venv/bin/rayloom ui          curves, pictures, film, configs, models in MLflow",
        "",
        f"{model.id}: test ELBO {model.metrics['eval/elbo_nats']:.2f} nats, "
        f"{model.metrics.get('eval/bpd', float('nan')):.3f} bits per dimension",
        f"{agent.id}: mean return {scores['eval/return_mean']:.1f} over 100 fresh episodes "
        f"(95 % interval {scores['eval/return_low']:.1f} to {scores['eval/return_high']:.1f})",
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
