"""`fit` on arrays, the two-stage chain by run id, and training without heavy imports."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from rayloom.config.sections import AdamConfig, EMAConfig, EvaluationConfig, TrainConfig
from rayloom.core.collective import Solo
from rayloom.core.errors import ConfigError, UserError
from rayloom.core.protocols import DataSpec, FieldSpec, parameters_sha256
from rayloom.models.autoencoders.vae import VAE, VAEConfig
from rayloom.nn.frozen import freeze
from rayloom.records import RunFolder
from rayloom.training import Engine, Plan, drive, fit
from rayloom.training.fitting import MemorySink
from training.toys import Regression, TwoStage, build, data


def arrays(rows=40):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)).astype(np.float32)
    return {"x": x, "y": np.stack([x[:, 0], x[:, 1] - x[:, 2]], 1)}


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Regression()


def test_fit_learns_from_arrays():
    result = fit(
        model(),
        arrays(),
        evaluation=arrays(20),
        train=TrainConfig(epochs=60, ema=EMAConfig(decay=0.9), log_every=10),
        optimizer=AdamConfig(lr=0.02),
        evaluate=EvaluationConfig(every=20),
        batch_size=8,
    )
    losses = [v for _, v in result.history("eval/loss")]
    assert len(losses) == 3
    assert losses[-1] < 0.1 < result.history("loss/total")[0][1]
    assert losses[-1] < losses[0]
    assert result.metrics["eval/loss"] == losses[-1]
    assert not result.model.training
    assert result.outcome.status == "finished"
    assert not torch.equal(result.averaged["net.0.weight"], result.model.net[0].weight)


def test_two_fits_are_equal_in_bits_whatever_the_global_generator():
    hashes = set()
    for salt in range(2):
        torch.manual_seed(salt)
        result = fit(model(), arrays(), train=TrainConfig(epochs=2), batch_size=8, seed=4)
        hashes.add(result.outcome.parameters_sha256)
    other = fit(model(), arrays(), train=TrainConfig(epochs=2), batch_size=8, seed=5)
    assert len(hashes) == 1
    assert other.outcome.parameters_sha256 not in hashes


def test_fit_leaves_the_global_generators_alone():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - what a user may rely on
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fit(model(), arrays(), evaluation=arrays(), train=TrainConfig(epochs=1), batch_size=8)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_fit_takes_images_datasets_and_sources():
    images = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8)
    spec = DataSpec({"image": FieldSpec((1, 8, 8), "uint8", "image")})
    vae = VAE(VAEConfig(widths=(8,), latent_dim=2), spec)
    result = fit(vae, images, evaluation=images, train=TrainConfig(grad_steps=3), batch_size=10)
    assert "eval/elbo_nats" in result.metrics
    assert result.outcome.best["metric"] == "eval/elbo_nats"
    assert result.images
    whole = fit(model(), data(np.float32), train=TrainConfig(grad_steps=2))
    assert "eval/loss" in whole.metrics  # the data set's own test split
    source = build("regression", batch_size=7)[2]
    assert fit(model(), source, train=TrainConfig(grad_steps=2)).outcome.position == 2


def test_wrong_data_is_explained():
    with pytest.raises(UserError, match="cannot train on str"):
        fit(model(), "fashion-mnist")
    with pytest.raises(UserError, match="without arrays"):
        fit(model(), {})
    with pytest.raises(UserError, match="epochs or grad_steps"):
        fit(model(), arrays(), train=TrainConfig(env_steps=5))


def test_a_rule_that_no_evaluation_can_meet_is_told_before_the_first_step():
    model, _, source, held_out = build("regression", batch_size=7)
    before = parameters_sha256(model.state_dict())
    train = TrainConfig(grad_steps=3, stop={"eval/nll_nats": 1.0})
    with pytest.raises(ConfigError, match="no evaluation gives 'eval/nll_nats'; there are: eval/"):
        fit(model, source, evaluation=held_out, train=train)
    assert parameters_sha256(model.state_dict()) == before


def test_training_imports_no_ray_and_no_mlflow():
    code = (
        "import sys; from rayloom.training import fit, Engine, drive; "
        "print([m for m in ('ray', 'mlflow', 'pandas', 'gymnasium', 'sklearn', 'matplotlib') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Two stages -------------------------------------------------------------------------------------


def first_stage(folder):
    made, config, source, held_out = build("regression", batch_size=7, ema=None)
    engine = Engine(made, config, source, held_out)
    drive(
        engine,
        Plan("grad_steps", 8, evaluate_every=4),
        folder=folder,
        sink=folder.journal(),
    )
    return folder.checkpoints().load(folder.checkpoints().best())["trainable"]["model"]


def second_stage(storage, run_id):
    """The first stage comes from its run's best checkpoint, found by the run's id."""
    folder = RunFolder.open(storage / run_id)
    state = folder.checkpoints(read_only=True).load(folder.checkpoints().best())
    _, config, source, held_out = build("two-stage", batch_size=7)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        stage = TwoStage(folder.run_id, state["trainable"]["model"])
    return Engine(stage, config, source, held_out, collective=Solo())


def test_second_stage_is_tied_by_run_id(tmp_path):
    """The frozen stage stays to the bit, its id is recorded, and a resume changes nothing."""
    one = RunFolder.create(tmp_path, "first", config={}, info={})
    weights = first_stage(one)

    def run(folder, amount, resume=False):
        engine = second_stage(tmp_path, one.run_id)
        plan = Plan("grad_steps", amount, evaluate_every=3)
        return engine, drive(engine, plan, folder=folder, sink=folder.journal(), resume=resume)

    whole = RunFolder.create(tmp_path, "second", config={}, info={"first_stage": one.run_id})
    engine, expected = run(whole, 12)
    assert whole.read()["first_stage"] == engine.model.first_run == one.run_id
    for name, value in weights.items():
        assert torch.equal(engine.model.first.state_dict()[name], value)
    broken = RunFolder.create(tmp_path, "broken", config={}, info={})
    run(broken, 5)
    _, outcome = run(broken, 12, resume=True)
    assert outcome.parameters_sha256 == expected.parameters_sha256


def test_frozen_modules_stay_in_evaluation_mode():
    engine = Engine(*build("two-stage", batch_size=7))
    engine.advance(1, sink=None, interrupted=lambda: False)
    assert engine.model.training
    assert not any(part.training for part in engine.model.first.modules())
    assert isinstance(engine.model.prior, nn.Module)


def test_frozen_buffers_do_not_move():
    """Neither by batches, nor by the averages, nor by a state."""
    model, *rest = build("two-stage", batch_size=7, ema=EMAConfig(decay=0.5))
    model.first.net.append(freeze(nn.BatchNorm1d(2)))
    before = {name: value.clone() for name, value in model.first.state_dict().items()}
    config = rest[0].model_copy(
        update={"train": rest[0].train.model_copy(update={"accumulate": 2})}
    )
    engine = Engine(model, config, *rest[1:])
    engine.advance(4, sink=MemorySink(), interrupted=lambda: False)
    assert len(engine.ema.tensors) == 1
    assert not [name for name in engine.state_dict()["model"] if name.startswith("first.")]
    with engine._looking():
        after = engine.model.first.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_state_belongs_to_its_frozen_part():
    state = Engine(*build("two-stage", batch_size=7)).state_dict()
    model, *rest = build("two-stage", batch_size=7)
    model.first.net[0].bias.data.add_(1.0)
    with pytest.raises(UserError, match="another frozen first stage"):
        Engine(model, *rest).load_state_dict(state)


def test_a_player_that_owns_a_frozen_parameter_is_refused():
    model, *rest = build("regression", batch_size=7)
    freeze(model.net[0])
    with pytest.raises(UserError, match=r"owns net\.0\.weight, which is frozen"):
        Engine(model, *rest)
