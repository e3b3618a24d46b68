"""Laws of text: what was encoded comes back, splits share nothing, a store knows its tokenizer."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rayloom.core.errors import UserError
from rayloom.core.protocols import DataSpec
from rayloom.data import import_data, make_source, open_store
from rayloom.data.exporting import export_parquet
from rayloom.data.text import make_tokenizer, tokenizer_from, tokenizer_of
from rayloom.data.text.bpe import BytePairs
from rayloom.data.text.tokenizers import Bytes, Characters
from rayloom_pipelines.cli import main

SAMPLE = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n" * 30
)
# what `tokenizers` learns of it is told in test_byte_pairs_of_the_library
PAIRS = BytePairs([(101, 97), (112, 256), (257, 107), (32, 258)])  # ea, pea, peak, " peak"


def decoded(tokenizer, text):
    back = tokenizer_from(json.loads(json.dumps(tokenizer.plain())))
    assert back.names == tokenizer.names
    assert len(back.names) == back.num_tokens
    return back.decode_bytes(tokenizer.encode(text))


@given(text=st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_characters_come_back(text):
    tokenizer = Characters.of([text + "x"])
    assert decoded(tokenizer, text) == text.encode()
    assert tokenizer.decode(tokenizer.encode(text.encode())) == text


@given(data=st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_bytes_come_back(data):
    assert decoded(Bytes(), data) == data


@given(data=st.binary(max_size=80), sample=st.sampled_from([SAMPLE, "žluť\u00a0\u0085\x00 ", ""]))
@settings(max_examples=60, deadline=None)
def test_any_bytes_come_back_from_byte_pairs(data, sample):
    pytest.importorskip("tokenizers")
    tokenizer = make_tokenizer("bpe:300", [SAMPLE.encode()], [])
    mixed = data + sample.encode() + data
    assert decoded(tokenizer, mixed) == mixed


def test_byte_pairs_of_the_library(monkeypatch):
    """Learnt pairs are frequent, tokens few, and parts are encoded each by itself as together."""
    pytest.importorskip("tokenizers")
    text = (SAMPLE * 20).encode()
    learnt = make_tokenizer("bpe:300", [text], [])
    assert learnt.num_tokens == 300
    tokens = learnt.encode(text)
    assert len(tokens) < len(text) / 2.5
    assert {"ea", "peak", "er"} <= set(learnt.names)
    monkeypatch.setattr("rayloom.data.text.bpe._CHUNK", 100)
    assert np.array_equal(learnt.encode(text), tokens)
    assert make_tokenizer("bpe:300", [text], []).plain() == learnt.plain()
    few = make_tokenizer("bpe:5000", [b"abab ab"], [])
    assert few.num_tokens < 270


def test_byte_pairs_decode_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    assert PAIRS.decode([83, 258, 44, 32, 115, 258]) == "Speak, speak"
    assert PAIRS.names[259] == " peak"
    for make in (lambda: PAIRS.encode("x"), lambda: make_tokenizer("bpe:300", [b"x"], [])):
        with pytest.raises(UserError, match=r"pip install 'rayloom\[text\]'"):
            make()


@pytest.mark.parametrize(("plain", "message"), [
    ({}, "damaged"), ({"name": "words"}, "known: chars"), ({"name": "chars"}, "damaged"),
    ({"name": "chars", "alphabet": "aa"}, "each of them once"),
    ({"name": "bpe", "merges": [[0, 300]]}, "too early"),
    ({"name": "bpe", "merges": [3]}, "damaged"),
])  # fmt: skip
def test_what_is_no_tokenizer(plain, message):
    with pytest.raises(UserError, match=message):
        tokenizer_from(plain)


def test_mistakes_of_text_are_named():
    with pytest.raises(UserError, match=r"'é' \(number 3 of the text\) is not in the alphabet"):
        Characters("abc").encode("abcé")
    with pytest.raises(UserError, match="tokens are 0 to 2"):
        Characters("abc").decode([3])
    for words in ("char", "bpe", "bpe:256", "bpe:x", "bytes:3", ""):
        with pytest.raises(UserError, match="must be chars, bytes or bpe:N"):
            make_tokenizer(words, [b"x"], [b"x"])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYLOOM_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts_of(dataset, split):
    tokenizer = tokenizer_of(dataset.spec)
    rows = dataset.split(split).take(torch.arange(len(dataset.split(split))))
    pairs = zip(rows["tokens"], rows["tokens_length"], strict=True)
    return [tokenizer.decode_bytes(row[:length].numpy()) for row, length in pairs]


@pytest.mark.parametrize("tokenizer", ["chars", "bytes", None])
def test_one_text_is_cut_in_two_at_an_end_of_line(here, tokenizer):
    data = (SAMPLE + "café\r\n").encode()
    (here / "novel.txt").write_bytes(data)
    made = import_data(here / "novel.txt", "novel", tokenizer=tokenizer)
    [train], [test] = texts_of(made, "train"), texts_of(made, "test")
    assert train + test == data
    assert train.endswith(b"\n")
    assert 0.08 < len(test) / len(data) < 0.13
    assert made.spec.fields["tokens"].num_classes == (
        len(set(data.decode())) if tokenizer == "chars" else 256
    )


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.13, 0.5])
def test_a_text_without_lines_is_not_cut_inside_a_character(here, fraction):
    (here / "one.txt").write_text("日本語é" * 50)
    made = import_data(here / "one.txt", "one", tokenizer="chars", test_fraction=fraction)
    [train], [test] = texts_of(made, "train"), texts_of(made, "test")
    assert train.decode() + test.decode() == "日本語é" * 50
    assert len(test) / len(train + test) == pytest.approx(fraction, abs=0.02)


def test_the_command_line_says_what_came_in(here, capsys):
    (here / "novel.txt").write_text(SAMPLE)
    assert main(["data", "import", "novel.txt", "novel", "--tokenizer", "chars"]) == 0
    said = capsys.readouterr().out
    assert "novel: train 1, test 1" in said
    assert "field    tokens: uint8 (-1,) tokens" in said
    assert main(["data", "show", "novel"]) == 0
    assert main(["data", "import", "novel.txt", "other", "--tokenizer", "char"]) == 2
    assert "did you mean 'chars'" in capsys.readouterr().err
    (here / "bad.txt").write_bytes(b"abc\xff")
    assert main(["data", "import", "bad.txt", "bad", "--tokenizer", "chars"]) == 2
    assert "bad.txt: byte 3 is no UTF-8" in capsys.readouterr().err
    assert main(["data", "import", "bad.txt", "bad", "--tokenizer", "bytes"]) == 0
    (here / "a.npy").write_bytes(b"")
    assert main(["data", "import", "a.npy", "a", "--tokenizer", "chars"]) == 2
    assert "--tokenizer: for .txt and .jsonl" in capsys.readouterr().err


def test_works_are_split_whole(here):
    works = {f"w{k:02}": f"work {k}\n" * (5 + k) for k in range(20)}
    (here / "works").mkdir()
    for name, text in works.items():
        (here / "works" / f"{name}.txt").write_text(text)
    made = import_data(here / "works", "works", tokenizer="chars")
    train, test = texts_of(made, "train"), texts_of(made, "test")
    assert len(test) == 2
    assert sorted(t.decode() for t in train + test) == sorted(works.values())
    assert train == sorted(train, key=lambda t: int(t.split()[1]))  # as they were found


@pytest.mark.parametrize("files", [
    {"train.txt": "aa", "test.txt": "ab"}, {"train/x.txt": "aa", "test/y.txt": "ab"},
    {"Training.jsonl": '{"text": "aa"}', "test.jsonl": '{"text": "ab"}\n'},
])  # fmt: skip
def test_names_say_the_splits(here, files):
    for name, text in files.items():
        (here / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "in" / name).write_text(text)
    made = import_data(here / "in", "made", tokenizer="chars")
    assert (texts_of(made, "train"), texts_of(made, "test")) == ([b"aa"], [b"ab"])


@pytest.mark.parametrize(("files", "message"), [
    ({"train.txt": "a", "novel.txt": "b"}, "novel.txt: says no split, others do"),
    ({"test.txt": "a", "val.txt": "b"}, "none for train"),
    ({"a.txt": "a", "b.jsonl": "{}"}, "each a folder of its own"),
    ({"a.txt": "", "b.txt": ""}, "holds no text"),
    ({"a.jsonl": '{"text": "a"}\n[1]\n'}, "a.jsonl, line 2: must be"),
    ({"a.jsonl": '{"text": 3}\n'}, "line 1: must be"),
    ({"a.jsonl": "{\n"}, "line 1: is no JSON"),
    ({"a.jsonl": ""}, "has no lines"),
    ({"a.jsonl": '{"text": "\\ud800"}'}, "half a surrogate pair"),
    ({"a.jsonl": '{"text": "a", "label": 1}\n{"text": "b"}'}, "some lines have a label"),
    ({"a.jsonl": '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}'}, "all text or all"),
    ({"a.jsonl": '{"text": "a", "label": -1}'}, "0 or more"),
])  # fmt: skip
def test_what_fits_half_is_refused(here, files, message):
    (here / "in").mkdir()
    for name, text in files.items():
        (here / "in" / name).write_text(text)
    with pytest.raises(UserError, match=message):
        import_data(here / "in", "made")
    assert not (here / "root" / "made").exists()


def test_a_link_is_followed_where_the_user_gives_it_and_not_out_of_a_folder(here):
    (here / "real.txt").write_text(SAMPLE)
    (here / "link.txt").symlink_to(here / "real.txt")
    assert b"".join(texts_of(import_data(here / "link.txt", "made", test_fraction=0), "train"))
    (here / "in").mkdir()
    (here / "in" / "a.txt").symlink_to(here / "real.txt")
    with pytest.raises(UserError, match=r"a.txt: a link that leads out"):
        import_data(here / "in", "again")


def test_lines_have_labels(here):
    lines = [{"text": f"text {k}", "label": "odd" if k % 2 else "even"} for k in range(30)]
    (here / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = import_data(here / "a.jsonl", "made")
    assert made.spec.fields["label"].classes == ("even", "odd")
    for split in ("train", "test"):
        rows = made.split(split).take(torch.arange(len(made.split(split))))
        odd = [int(text.split()[1]) % 2 for text in texts_of(made, split)]
        assert rows["label"].tolist() == odd


def test_a_store_knows_its_tokenizer(here):
    (here / "a.txt").write_text("aabbcc\n" * 20)
    (here / "b.txt").write_text("xxyyzz\n" * 20)
    made = {n: import_data(here / f"{n}.txt", n, tokenizer="chars") for n in "ab"}
    assert torch.equal(made["a"].split("train").take(torch.arange(1))["tokens"],
                       made["b"].split("train").take(torch.arange(1))["tokens"])  # fmt: skip
    assert made["a"].fingerprint != made["b"].fingerprint
    spec = DataSpec.from_plain(json.loads(json.dumps(made["a"].spec.plain())))
    assert tokenizer_of(spec).decode([1, 2, 3]) == "abc"
    [path, _] = export_parquet(made["a"], here / "out")
    back = import_data(path.parent, "back")
    assert back.fingerprint == made["a"].fingerprint
    assert tokenizer_of(back.spec).names == tokenizer_of(spec).names
    with pytest.raises(UserError, match="has no tokenizer"):
        tokenizer_of(DataSpec(spec.fields, "x"))
    file = here / "root" / "a" / "tokenizer.json"
    whole = file.read_text()
    for text in ("", "[]", "{}", whole.replace("abc", "abx")):
        file.write_text(text)
        with pytest.raises(UserError, match=r"tokenizer.json.*import it again"):
            open_store(here / "root" / "a")
    file.write_text(whole)
    open_store(here / "root" / "a")


def test_lists_of_tokens_from_parquet_have_classes(here):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"input_ids": [[3, 1], [], [9]], "caption": ["one", "", "dréi"]}
    pq.write_table(pa.table(table), here / "t.parquet")
    made = import_data(here / "t.parquet", "made", test_fraction=0)
    assert made.spec.fields["tokens"].kind == "tokens"
    assert made.spec.fields["tokens"].num_classes == 10
    assert made.spec.fields["caption"].kind == "text"
    source = make_source(made, "train", batch_size=3, seed=0, shuffle=False)
    batch = source.batch(0).fields
    assert batch["tokens"].tolist() == [[3, 1], [0, 0], [9, 0]]
    caption, length = batch["caption"][2], int(batch["caption_length"][2])
    assert tokenizer_of(made.spec, "caption").decode(caption[:length].numpy()) == "dréi"
    pq.write_table(pa.table({"tokens": [[3, -1]]}), here / "bad.parquet")
    with pytest.raises(UserError, match="holds the token -1"):
        import_data(here / "bad.parquet", "bad")


def test_captions_stand_beside_pictures(here):
    (here / "in" / "sub").mkdir(parents=True)
    names = [f"sub/{k}.png" for k in range(5)]
    for k, name in enumerate(names):
        Image.new("L", (4, 4), k).save(here / "in" / name)
    lines = [json.dumps({"file_name": n, "text": f"grey {k}"}) for k, n in enumerate(names)]
    (here / "in" / "metadata.jsonl").write_text("\n".join(lines))
    made = import_data(here / "in", "made", test_fraction=0)
    batch = make_source(made, "train", batch_size=5, seed=0, shuffle=False).batch(0).fields
    tokenizer = tokenizer_of(made.spec, "text")
    for row, length, image in zip(batch["text"], batch["text_length"], batch["image"], strict=True):
        assert tokenizer.decode(row[:length].numpy()) == f"grey {int(image[0, 0, 0])}"
    for change, message in (
        (lines[:4], "4.png: has no caption"),
        ([*lines, lines[0]], "line 6: the picture 'sub/0.png' has a caption already"),
        ([*lines, '{"file_name": "x.png", "text": ""}'], "no picture 'x.png'"),
        (["{}"], "line 1: must be"),
    ):
        (here / "in" / "metadata.jsonl").write_text("\n".join(change))
        with pytest.raises(UserError, match=message):
            import_data(here / "in", "again")
