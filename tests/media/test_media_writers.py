"""The one table of file formats: what fits, and that bytes are a function of content."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from rayloom.media import Arrays, Film, Images, Table, Text
from rayloom.media.writers import WRITERS, encode, endings_of

PIXELS = torch.linspace(0, 1, 6 * 3 * 5 * 7).view(6, 3, 5, 7)
MEDIA = {
    "images": Images(PIXELS),
    "film": Film(PIXELS),
    "text": Text(["ROMEO:\nwhat light", "ü"]),
    "table": Table({"label": [1, 2], "name": ["a", None], "p": [[0.5, 0.25], [0.125, 1.0]]}),
    "arrays": Arrays({"a": torch.arange(3), "b": torch.ones(2, 2, dtype=torch.bfloat16)}),
}
FITS = {
    "images": [".png"],
    "film": [".gif", ".mp4"],
    "text": [".txt", ".jsonl", ".csv", ".parquet"],
    "table": [".jsonl", ".csv", ".parquet"],
    "arrays": [".npy", ".npz", ".safetensors"],
}


@pytest.mark.parametrize("kind", MEDIA)
def test_each_medium_has_its_endings_and_bytes_follow_content(kind, monkeypatch):
    assert endings_of([MEDIA[kind]]) == FITS[kind]
    for ending in FITS[kind]:
        first = encode(MEDIA[kind], ending)
        monkeypatch.setattr("time.time", lambda: 4e9)
        assert encode(MEDIA[kind], ending) == first, ending
    for ending in {*WRITERS, ".doc", ""} - {*FITS[kind]}:
        with pytest.raises(ValueError, match=rf"is none of {FITS[kind][0]}"):
            encode(MEDIA[kind], ending)


def test_files_hold_what_was_given():
    assert np.array_equal(np.load(io.BytesIO(encode(MEDIA["arrays"], ".npy"))), [0, 1, 2])
    both = np.load(io.BytesIO(encode(MEDIA["arrays"], ".npz")))
    assert {name: both[name].shape for name in both} == {"a": (3,), "b": (2, 2)}
    rows = [json.loads(line) for line in encode(MEDIA["table"], ".jsonl").splitlines()]
    assert rows[1] == {"label": 2, "name": None, "p": [0.125, 1.0]}
    assert encode(MEDIA["table"], ".csv") == b"label,name,p.0,p.1\n1,a,0.5,0.25\n2,,0.125,1.0\n"
    assert encode(MEDIA["text"], ".txt").decode().split("\n\n--------\n\n")[1] == "ü\n"
    film = Image.open(io.BytesIO(encode(MEDIA["film"], ".gif")))
    assert film.n_frames == 6
    alpha = Images(torch.zeros(2, 4, 60, 60))
    assert Image.open(io.BytesIO(encode(alpha, ".png"))).mode == "RGBA"


def test_several_forms_of_one_result_each_find_their_ending():
    forms = [MEDIA["arrays"], MEDIA["images"]]
    assert encode(forms, ".png") == encode(MEDIA["images"], ".png")
    with pytest.raises(ValueError, match=r"\.mp4 is none of \.png, \.npy, \.npz, \.safetensors"):
        encode(forms, ".mp4")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Images(torch.zeros(3, 8, 8)),
        lambda: Images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)),
        lambda: Images(torch.zeros(0, 1, 8, 8)),
        lambda: Film(torch.zeros(8, 8)),
        lambda: Text("abc"),
        lambda: Table({"a": [1], "b": [1, 2]}),
    ],
)
def test_media_of_another_form_are_refused_where_they_are_made(make):
    with pytest.raises(ValueError, match=r"Images|Film|Text|Table"):
        make()
