"""Laws of the LSTM over tokens: its equations, its memory, what crosses a border and what not."""

import math

import numpy as np
import pytest
import torch

from rayloom.config.data import LanesConfig
from rayloom.config.sections import AdamConfig, RunConfig, TrainConfig
from rayloom.core.errors import UserError
from rayloom.core.noise import Noise
from rayloom.core.protocols import DataSpec, FieldSpec, Turn
from rayloom.data import from_arrays, make_source
from rayloom.data.text import make_tokenizer
from rayloom.data.use import Use
from rayloom.models.sequences.char_lstm import CharLSTM, CharLSTMConfig, SampleSettings
from rayloom.testing import check_model
from rayloom.training import Engine
from rayloom.training.fitting import MemorySink
from rayloom_pipelines.benchmarks.char_tables import table_nats
from thread_ranks import on_ranks

pytestmark = pytest.mark.law("char-lstm")
V = 5
SPEC = DataSpec({"tokens": FieldSpec((7,), "uint8", "tokens", V)})


def model(seed=0, spec=SPEC, **config):
    torch.manual_seed(seed)
    made = CharLSTM(CharLSTMConfig(**({"embedding": 3, "width": 6, "layers": 2} | config)), spec)
    return made.double()


def text(num, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, V, (num, length), generator=generator, dtype=torch.uint8)


def batch_of(made, tokens, state=None):
    state = state or {k: v.double() for k, v in made.memory(len(tokens)).items()}
    first = torch.zeros(len(tokens), dtype=torch.bool)
    return {"tokens": tokens, "first": first, **{f"memory.{k}": v for k, v in state.items()}}


def loss(made, batch):
    num = len(batch["tokens"])
    return made.loss(batch, rng=Noise(0, total=num), turn=Turn())


def test_the_contract(seed):
    check_model(CharLSTM)


def test_it_is_the_equation():
    """One layer, step by step, as the module's docstring says."""
    made = model(layers=1)
    tokens, [cell] = text(3, 9), made.cells
    w, u, b = cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0 + cell.bias_hh_l0
    h = c = torch.zeros(3, 6, dtype=torch.float64)
    found = []
    for step in range(9):
        gates = made.embed(tokens[:, step].long()) @ w.T + h @ u.T + b
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        found.append(h @ made.head.weight.T + made.head.bias)
    logits, state = made.run(tokens, {k: v.double() for k, v in made.memory(3).items()})
    torch.testing.assert_close(logits, torch.stack(found, 1))
    torch.testing.assert_close(state["h"][:, 0], h)
    torch.testing.assert_close(state["c"][:, 0], c)
    assert torch.equal(model(layers=1).cells[0].bias_ih_l0[6:12] * 2, torch.ones(6).double())


def test_it_knows_nothing_of_what_comes():
    """The Jacobian of the logits by the tokens that go in is triangular in time."""
    made, tokens = model(), text(1, 6)
    begin = {k: v.double() for k, v in made.memory(1).items()}
    whole = made.run(tokens, begin)[0]
    for place in range(6):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % V
        changed = (made.run(other, begin)[0] != whole).any(-1)[0]
        assert not changed[:place].any()
        assert changed[place:].all()


def test_it_is_a_distribution():
    made = model()
    every = torch.cartesian_prod(*[torch.arange(V)] * 3)
    rows = torch.cat([torch.full((len(every), 1), 2), every], 1)
    total = made.log_prob(rows).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("cuts", [[10], [1] * 10, [3, 7], [4, 4, 2]])
def test_a_stream_in_pieces_equals_one_pass(cuts):
    made, tokens = model(), text(3, 11)
    whole = loss(made, batch_of(made, tokens))
    nats, start, state = torch.zeros(3).double(), 0, None
    for length in cuts:
        part = loss(made, batch_of(made, tokens[:, start : start + length + 1], state))
        nats, state = nats + part["loss"][0], {k: part[k].value for k in "hc"}
        assert part["loss"][1].tolist() == [length] * 3
        start += length
    torch.testing.assert_close(nats, whole["loss"][0])
    torch.testing.assert_close(state["h"], whole["h"].value)


def gradient(made, parts):
    """Of the summed loss over some pieces, each beginning with what the last one left."""
    made.zero_grad()
    state = None
    for piece in parts:
        found = loss(made, batch_of(made, piece, state))
        found["loss"][0].sum().backward()
        state = {k: found[k].value for k in "hc"}
        assert not any(value.requires_grad for value in state.values())
    return torch.cat([p.grad.flatten() for p in made.parameters()])


def test_truncation_leaves_a_short_text_alone_and_cuts_a_long_one():
    """Truncated at T or later it is the full gradient; sooner it is another."""
    made, tokens = model(), text(2, 9)
    made.zero_grad()
    (-made.log_prob(tokens)).sum().backward()
    full = torch.cat([p.grad.flatten() for p in made.parameters()])
    torch.testing.assert_close(gradient(made, [tokens]), full)
    cut = gradient(made, [tokens[:, :5], tokens[:, 4:]])
    assert (cut - full).norm() > 1e-3 * full.norm()
    # what is cut is what the early steps did to the late ones: the last layer's bias keeps all
    head = -V  # the last parameters are the head's bias
    torch.testing.assert_close(cut[head:], full[head:])


def test_rows_without_lanes_begin_empty():
    """A window that was shuffled in has nothing to do with its row of the batch before."""
    made, tokens = model(), text(3, 8)
    used = {k: torch.ones_like(v).double() for k, v in made.memory(3).items()}
    batch = batch_of(made, tokens, used)
    carried = loss(made, batch)["loss"][0]
    del batch["first"]
    torch.testing.assert_close(loss(made, batch)["loss"][0], -made.log_prob(tokens))
    assert (carried + made.log_prob(tokens)).abs().min() > 1e-3
    with pytest.raises(UserError, match=r"20,000 tokens.*data.rows"):
        made.log_prob(text(1, 20_000))


def test_masked_steps_count_nothing():
    made, tokens = model(), text(2, 8)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    found = loss(made, {**batch_of(made, tokens), "tokens_mask": mask})["loss"]
    alone = loss(made, batch_of(made, tokens[1:, :5]))["loss"]
    torch.testing.assert_close(found[0][1], alone[0][0])
    assert found[1].tolist() == [7, 4]
    batch = {"tokens": tokens, "tokens_mask": mask}
    scores = made.evaluate_batch(batch, rng=Noise(0, total=2))
    torch.testing.assert_close(scores["nats"].value, found[0].sum())
    assert scores["tokens"].value.item() == 11


def test_perplexity_is_exp_of_summed_nats():
    """Not a mean of the batches' perplexities, which a short batch would bend."""
    made = model().float()
    data = from_arrays("t", {"train": {"tokens": text(7, 9).numpy()}})
    spec = data.spec.fields["tokens"]
    assert (spec.kind, spec.num_classes) == ("tokens", V)
    source = make_source(data, "train", batch_size=3, seed=0, shuffle=False)
    engine = Engine(made, RunConfig(train=TrainConfig(grad_steps=1)), _lanes(), source)
    found = engine.evaluate()
    nats = -made.log_prob(text(7, 9)).double()
    assert found["eval/perplexity"] == pytest.approx(math.exp(float(nats.sum()) / 56), rel=1e-6)
    assert found["eval/nats_per_token"] == pytest.approx(float(nats.sum()) / 56, rel=1e-6)
    assert found["eval/bits_per_token"] == pytest.approx(float(nats.sum()) / 56 / math.log(2))


# In the engine -----------------------------------------------------------------------------------

LONG = [text(1, 90, seed=4)[0].numpy(), text(1, 71, seed=5)[0].numpy()]
FIELDS = {"tokens": FieldSpec((-1,), "uint8", "tokens", V)}


def _lanes(lanes=4, length=6):
    data = from_arrays("long", {"train": {"tokens": LONG}}, fields=FIELDS)
    data = data.using(Use(rows=LanesConfig(length=length)))
    return make_source(data, "train", batch_size=lanes, seed=0, shuffle=True)


def engine(collective=None, accumulate=1, built=None):
    config = RunConfig(
        train=TrainConfig(grad_steps=15, accumulate=accumulate), optimizer=AdamConfig(lr=1e-2)
    )
    return Engine(built or model(dropout=0.2), config, _lanes(), None, collective=collective)


def trained(collective=None, accumulate=1, built=None):
    made = engine(collective, accumulate, built)
    made.advance(15, sink=MemorySink(), interrupted=lambda: False)
    state = made.state_dict()
    flat = torch.cat([p.detach().flatten() for p in made.model.parameters()])
    return flat, state


def test_a_lane_goes_on_where_it_stopped_and_begins_anew_with_the_epoch(monkeypatch):
    """What the model is given is what it left; zeros where `first` says so."""
    seen = []
    first = CharLSTM.loss

    def watch(self, batch, *, rng, turn):
        found = first(self, batch, rng=rng, turn=turn)
        seen.append((batch["first"], batch["memory.h"].clone(), found["h"].value.clone()))
        return found

    monkeypatch.setattr(CharLSTM, "loss", watch)
    made = engine()
    depth = made.train_source.batches_per_epoch
    made.advance(15, sink=MemorySink(), interrupted=lambda: False)
    assert depth == 6
    for number, (begins, given, _) in enumerate(seen):
        assert bool(begins.all()) == (number % depth == 0)
        if number % depth:
            assert torch.equal(given, seen[number - 1][2])
        else:
            assert not given.any()


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (3, 1), (1, 3)])
def test_ranks_and_chunks_change_nothing(world, accumulate):
    alone, state = trained()
    models = [model(dropout=0.2) for _ in range(world)]

    def run(rank, collective):
        return trained(collective if world > 1 else None, accumulate, models[rank])

    for flat, other in on_ranks(world, run):
        torch.testing.assert_close(flat, alone, rtol=1e-9, atol=1e-12)
        for key in "hc":
            torch.testing.assert_close(
                other["memory"][key], state["memory"][key], rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize("at", [4, 9])
def test_killed_and_resumed_is_never_stopped(at):
    alone, _ = trained()
    first = engine()
    first.advance(at, sink=MemorySink(), interrupted=lambda: False)
    second = engine()
    second.load_state_dict(first.state_dict())
    second.advance(15, sink=MemorySink(), interrupted=lambda: False)
    flat = torch.cat([p.detach().flatten() for p in second.model.parameters()])
    assert torch.equal(flat, alone)


def test_it_learns_what_a_table_of_that_order_cannot():
    """a b^n a b^n ...: to know when b ends one must count, over more steps than are trained on."""
    period = np.array([0, *[1] * 5] * 200, np.uint8)
    data = from_arrays("count", {"train": {"tokens": [period]}},
                       fields={"tokens": FieldSpec((-1,), "uint8", "tokens", 2)})  # fmt: skip
    data = data.using(Use(rows=LanesConfig(length=3)))
    source = make_source(data, "train", batch_size=8, seed=0, shuffle=True)
    spec = data.spec
    torch.manual_seed(0)
    made = CharLSTM(CharLSTMConfig(embedding=2, width=8), spec)
    config = RunConfig(train=TrainConfig(grad_steps=300), optimizer=AdamConfig(lr=3e-2))
    Engine(made, config, source, None).advance(300, sink=MemorySink(), interrupted=lambda: False)
    rows = torch.from_numpy(period[:301]).long()[None]
    nats = float(-made.log_prob(rows)) / 300
    [*_, table] = table_nats([period.astype(np.int64)], [period[:301].astype(np.int64)], 2, 3)
    assert table > 0.2
    assert nats < 0.05


# Use ---------------------------------------------------------------------------------------------


def test_samples_come_as_often_as_they_are_likely():
    made, num = model(width=4, layers=1), 4000
    with torch.no_grad():
        made.head.weight.mul_(4)
    prompt = torch.full((num, 1), 3)
    found = made.sample({"prompt": prompt}, rng=Noise(1, total=num),
                        settings=SampleSettings(length=2))  # fmt: skip
    assert found["tokens"].shape == (num, 3)
    codes = found["tokens"][:, 1].long() * V + found["tokens"][:, 2].long()
    every = torch.cartesian_prod(*[torch.arange(V)] * 2)
    likely = made.log_prob(torch.cat([torch.full((V * V, 1), 3), every], 1)).exp()
    share = torch.bincount(codes, minlength=V * V) / num
    assert (share - likely).abs().max() < 0.025
    cold = made.sample({"prompt": prompt[:9]}, rng=Noise(1, total=9),
                       settings=SampleSettings(length=3, temperature=1e-3))["tokens"]  # fmt: skip
    assert (cold == cold[0]).all()


def test_prompts_of_several_lengths_are_kept():
    made = model()
    prompt, length = text(3, 4).long(), torch.tensor([4, 1, 2])
    given = {"prompt": prompt, "prompt_length": length}
    found = made.sample(given, rng=Noise(0, total=3), settings=SampleSettings(length=5))
    assert found["tokens_length"].tolist() == [9, 6, 7]
    for row in range(3):
        assert torch.equal(found["tokens"][row, : length[row]].long(), prompt[row, : length[row]])
    one = {"prompt": prompt[1:2], "prompt_length": length[1:2]}
    noise = Noise(0, total=3, start=1, stop=2)
    alone = made.sample(one, rng=noise, settings=SampleSettings(length=5))
    assert torch.equal(alone["tokens"][0, :6], found["tokens"][1, :6])


def test_text_goes_in_and_comes_out():
    plain = make_tokenizer("chars", [], [b"abc"]).plain()
    fields = {"tokens": FieldSpec((-1,), "uint8", "tokens", 3)}
    spec = DataSpec(fields, "abc", tokenizers={"tokens": plain})
    made = model(spec=spec)
    [text_] = made.show({}, rng=Noise(0, total=9)).values()
    assert len(text_.texts) == 4
    assert set("".join(text_.texts)) <= set("abc")
    assert model().show({}, rng=Noise(0, total=9)) == {}
    tokens = text(2, 4)
    exported = model().exports()["next"]
    torch.testing.assert_close(exported.module(tokens).exp().sum(1), torch.ones(2).double())


def test_data_without_tokens_are_refused():
    for fields, message in (
        ({"image": FieldSpec((1, 2, 2), "uint8", "image")}, "no field 'tokens'"),
        ({"tokens": FieldSpec((4,), "int64")}, "wanted are whole numbers below a known number"),
    ):
        with pytest.raises(UserError, match=message):
            CharLSTM(CharLSTMConfig(), DataSpec(fields, "x"))
