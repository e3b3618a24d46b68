"""What a run gathers of its data: what the model reads, whole batches where rows remember."""

import pytest

from rayloom.config.resolved import config_from_dict
from rayloom.data import import_data
from rayloom_pipelines.run.build import build_engine


@pytest.fixture
def novel(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYLOOM_DATA_ROOT", str(tmp_path / "root"))
    (tmp_path / "novel.txt").write_text("one two three four five six seven\n" * 40)
    import_data(tmp_path / "novel.txt", "novel", tokenizer="chars")


def built(model, **data):
    return build_engine(config_from_dict({"model": model, "data": data}))


def test_a_model_gathers_what_it_reads(monkeypatch):
    few = {"name": "digits", "limit": 20, "batch_size": 8, "labelled": {"per_class": 1}}
    reads = built({"name": "cnn-classifier"}, **few).train_source.batch(0).fields
    assert set(reads) == {"image", "label", "label_mask"}
    alone = built({"name": "tabular-ar"}, **few).train_source.batch(0).fields
    assert set(alone) == {"image"}


def test_lanes_train_and_other_rows_evaluate(novel):
    engine = built(
        {"name": "char-lstm", "width": 4},
        name="novel",
        batch_size=3,
        rows={"name": "lanes", "length": 10},
        eval_rows={"name": "lanes", "length": 30},
        eval_batch_size=2,
    )
    train, test = engine.train_source, engine.evaluation_source
    assert (train.lanes, train.batch(0).fields["tokens"].shape) == (3, (3, 11))
    assert test.batch(0).fields["tokens"].shape == (2, 31)
    assert engine.evaluate()["eval/perplexity"] > 1


def test_rows_that_remember_have_whole_batches(novel):
    engine = built(
        {"name": "char-lstm", "width": 4},
        name="novel",
        batch_size=7,
        rows={"name": "windows", "length": 16},
    )
    source = engine.train_source
    assert source.num_examples % 7 == 0
    assert source.num_examples > 0
