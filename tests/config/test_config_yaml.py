"""YAML is read by the rules of YAML 1.2, every value knows its line, hostile text is refused."""

import math
import os
import string

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rayloom.config.merge import flags as read_flags
from rayloom.config.resolved import Resolved, load_config
from rayloom.config.yaml_marks import MAX_BYTES, MAX_DEPTH, MAX_VALUES, MAX_WHOLE, node_of, parse
from rayloom.config.yaml_text import dump, flag
from rayloom.config.yaml_text import read as read_file
from rayloom.core.errors import ConfigError

MODEL = "model: {name: toy}\ndata: {name: digits}\n"


def read(text):
    problems = []
    node = parse(text, "f.yaml", problems)
    assert not problems, problems
    return node.plain() if node is not None else None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+3", 1000.0),
        ("5e4", 50000.0),
        (".5", 0.5),
        ("+1.", 1.0),
        ("-0", 0),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("0b11", "0b11"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nul", "nul"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("2001-12-14", "2001-12-14"),
        ("'1e-3'", "1e-3"),
        ('"true"', "true"),
        ("<<", "<<"),
        ("=", "="),
        ("1e", "1e"),
        ("e5", "e5"),
        ("+", "+"),
        (".", "."),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text, value):
    got = read(f"key: {text}\n")["key"]
    assert got == value
    assert type(got) is type(value)


def test_keys_that_yaml_1_1_would_read_as_booleans_are_text():
    assert read("no: 1\non: 2\ny: 3\n") == {"no": 1, "on": 2, "y": 3}


def test_every_value_knows_its_line():
    tree = parse("a:\n  b: 1\n  c:\n    - 2\n    - d: 3\n\nf: {g: 4,\n  h: 5}\n", "x.yaml", [])
    assert tree.at("a").where == "x.yaml:1"
    assert tree.at("a.b").where == "x.yaml:2"
    assert tree.at("a.c").where == "x.yaml:3"
    assert tree.place("a.c.0") == "x.yaml:4"
    assert tree.place("a.c.1.d") == "x.yaml:5"
    assert tree.at("f.g").where == "x.yaml:7"
    assert tree.at("f.h").where == "x.yaml:8"
    assert tree.place("a.b.nothing") == "x.yaml:2"


def test_ordinary_aliases_work_and_keep_the_place_of_their_use():
    tree = parse("a: &x {n: 1}\nb: *x\nc: &y 3\nd: *y\n", "x.yaml", [])
    assert tree.plain() == {"a": {"n": 1}, "b": {"n": 1}, "c": 3, "d": 3}
    assert tree.at("b").where == "x.yaml:2"


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
TALL = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 100))

HOSTILE = {
    "empty": (b"", "is empty"),
    "comment": (b"# nothing\n", "is empty"),
    "null": (b"---\n...\n", "is empty"),
    "list": (b"- a\n- b\n", "must be a mapping of sections, not a list"),
    "scalar": (b"hello\n", "must be a mapping of sections, not the value 'hello'"),
    "two documents": (b"a: 1\n---\nb: 2\n", "second document"),
    "duplicate": (MODEL.encode() + b"seed: 1\nseed: 2\n", "c.yaml:4: seed: the key stands twice"),
    "tab": (b"model:\n\tname: toy\n", "c.yaml:2: a tab cannot"),
    "NUL": (b"model: toy\0\n", "is a binary file"),
    "binary": (bytes(range(128, 256)) * 8, "c.yaml:1: is not UTF-8"),
    "UTF-16": ("model: toy".encode("utf-16"), "is a binary file"),
    "control": (b"model: a\nseed: \x07\n", "c.yaml:2: holds the character '\\x07'"),
    "bad YAML": (b"model: {name: toy\ndata: [\n", "is not YAML"),
    "bad indent": (b"model:\n   name: toy\n  latent_dim: 3\n", "c.yaml:3: is not YAML"),
    "python tag": (b"model: !!python/object/apply:os.system ['true']\n", "YAML tag"),
    "python name": (b"model: !!python/name:os.system\n", "YAML tag"),
    "custom tag": (MODEL.encode() + b"seed: !run 3\n", "YAML tag '!run' is refused"),
    "standard tag": (MODEL.encode() + b"seed: !!int '3'\n", "YAML tag"),
    "verbatim tag": (MODEL.encode() + b"seed: !<tag:yaml.org,2002:int> 3\n", "YAML tag"),
    "alias bomb": (BOMB.encode(), "more than 20,000 values"),
    "tall aliases": (TALL.encode(), "nested deeper"),
    "self alias": (b"model: &a [*a]\n", "names no finished anchor"),
    "unknown alias": (b"model: *nothing\n", "names no finished anchor"),
    "3,000 lists": (b"model: " + b"[" * 3000 + b"]" * 3000, "nested deeper"),
    "3,000 open": (b"model: " + b"{a: " * 3000, "nested deeper"),
    "3,000 dashes": (b"- " * 3000 + b"x\n", "nested deeper"),
    "3,000 indents": (
        b"".join(b" " * i + b"a:\n" for i in range(500)) + b" " * 500 + b"a: 1\n",
        "nested deeper",
    ),
    "nan": (MODEL.encode() + b"optimizer: {lr: .nan}\n", "optimizer.lr: .nan is not a finite"),
    "inf": (MODEL.encode() + b"optimizer: {lr: .inf}\n", "optimizer.lr: .inf is not a finite"),
    "minus inf": (MODEL.encode() + b"optimizer: {lr: -.INF}\n", "optimizer.lr: -.INF is not"),
    "overflow": (MODEL.encode() + b"optimizer: {lr: 1e999}\n", "optimizer.lr: 1e999 is too large"),
    "digits": (MODEL.encode() + b"seed: " + b"9" * 9000 + b"\n", "has too many digits"),
    "hex digits": (MODEL.encode() + b"seed: 0x" + b"F" * 9000 + b"\n", "has too many digits"),
    "list key": (b"? [a]\n: 1\n", "must be text, not a list"),
    "number key": (MODEL.encode() + b"1: 2\n", "the key 1 must be text"),
    "null key": (MODEL.encode() + b"? \n: 2\n", "the key null must be text"),
    "merge key in model": (b"model:\n  <<: {name: toy}\n", "c.yaml:2: model.<<: '<<' merges in"),
    "merge key": (b"model: &m {name: toy}\ndata: {<<: *m}\n", "use 'extends'"),
    "surrogate": (MODEL.encode() + b'storage: "\\ud800"\n', "storage: '\\ud800' holds NUL or half"),
    "quoted NUL": (MODEL.encode() + b'storage: "a\\0b"\n', "storage: 'a\\x00b' holds NUL or half"),
    "escape codes": (MODEL.encode() + b'"\\e[31mred": 1\n', "\\x1b[31mred"),
    "big": (b"#" * (MAX_BYTES + 1), "bytes; a config has at most"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_a_message_that_names_the_file(name, folder):
    raw, expected = HOSTILE[name]
    (folder / "c.yaml").write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        load_config("c.yaml")
    text = str(caught.value)
    assert expected in text
    assert "c.yaml" in text
    assert "\x1b" not in text
    assert len(text) < 5000


ONE_MESSAGE = [
    "python tag", "custom tag", "standard tag", "nan", "inf", "overflow", "digits", "null key",
    "number key", "duplicate", "surrogate", "quoted NUL", "tab", "3,000 lists", "alias bomb",
]  # fmt: skip


@pytest.mark.parametrize("name", ONE_MESSAGE)
def test_one_mistake_is_one_message(name, folder):
    """What could not be read is not complained about again as null or as an unknown key."""
    raw, _ = HOSTILE[name]
    (folder / "c.yaml").write_bytes(raw if b"data" in raw else raw + b"data: {name: digits}\n")
    with pytest.raises(ConfigError) as caught:
        load_config("c.yaml")
    assert len(caught.value.problems) == 1, caught.value


def test_a_100_mb_file_is_refused_unread(folder, monkeypatch):
    with (folder / "c.yaml").open("wb") as file:
        file.truncate(100 * 1024 * 1024)

    def refuse(self, *_):
        raise AssertionError("it was opened")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(ConfigError, match="has 104,857,600 bytes"):
        load_config("c.yaml")


def test_what_is_no_file(folder):
    (folder / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.yaml: is a folder"):
        load_config("folder.yaml")
    with pytest.raises(ConfigError, match=r"nothing\.yaml: there is no such file"):
        load_config("nothing.yaml")
    (folder / "digits.yaml").write_text(MODEL)
    with pytest.raises(ConfigError, match=r"did you mean 'digits\.yaml'"):
        load_config("digit.yaml")
    (folder / "link.yaml").symlink_to("gone.yaml")
    with pytest.raises(ConfigError, match=r"link\.yaml: is a link to a file that is not there"):
        load_config("link.yaml")
    os.mkfifo(folder / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"pipe\.yaml: is not a regular file"):
        load_config("pipe.yaml")
    with pytest.raises(ConfigError):
        load_config("a\0b.yaml")
    with pytest.raises(ConfigError):
        load_config("x" * 10_000 + ".yaml")
    with pytest.raises(ConfigError):
        load_config("digits.yaml/deeper.yaml")


def test_an_unreadable_file(folder, monkeypatch):
    (folder / "c.yaml").write_text(MODEL)

    def refuse(self, *_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.open", refuse)  # chmod does not stop root
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read: Permission denied"):
        load_config("c.yaml")


def test_nesting_up_to_the_limit_is_read():
    depth = MAX_DEPTH - 1
    assert read("a: " + "[" * depth + "]" * depth) is not None
    with pytest.raises(ConfigError, match="nested deeper"):
        read("a: " + "[" * (depth + 1) + "]" * (depth + 1))


def test_python_data_is_checked_as_yaml_is():
    loop = {}
    loop["loop"] = loop
    for bad in (loop, {"a": math.nan}, {"a": math.inf}, {"a": object()}, {1: 2}, {"a": 10**400}):
        with pytest.raises(ConfigError):
            node_of(bad)
    assert node_of({"a": (1, 2.5, None, "x")}).plain() == {"a": [1, 2.5, None, "x"]}


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(["no", "1e-3", "0o7", "0x1", "~", "null", ".nan", "1_0", "<<", "-", "a: b"])
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(trees)
@example({"1e-3": "1e-3", "no": "no", "a": "0o17", "b": "\x85\u2028", "c": "'\"", "d": ".inf"})
@example([1e-05, 1e16, -0.0, 5e-324, 2**63, -(2**64), MAX_WHOLE - 1, 1 - MAX_WHOLE])
def test_dumped_trees_read_back_equal(tree):
    text = dump({"tree": tree})
    assert repr(read(text)) == repr({"tree": tree})  # 1 is not 1.0, nor -0.0 0.0


# What YAML 1.1, YAML 1.2, shells or terminals read as something else, or lose.
TEXTS = [
    "", " ", "1e-3", "2e5", "1.5", ".5", "1.", "+1", "0o17", "017", "0x1F", "0b11", "1_000", ".inf",
    "-.INF", ".nan", "nan", "12:30:45", "2026-11-25", "on", "Yes", "n", "~", "null", "Null", "true",
    "=", "<<", "# c", "a #b", "&a", "*a", "!a", "%a", "@a", "`a", "- a", "? a", ": a", "a: b",
    "{a", "[a", "a,b", "|", ">-", "'", '"', "\\", "\\n", "---", "...", "--- a", " a", "a ", "a  b",
    "\t", "a\tb", "a\nb", "a\n", "\n\n", "\r", "a\r\nb", "a\x85b", "a\u2028b", "\u2029", "\ufeffa",
    "\x07", "\x1b[31m", "\x7f", "\x9f", "\xa0", "\u200b", "\u202e", "e\u0301", "\uffff", "😀",
    "\U0010ffff", "ä" * 200, "a " * 200, " " * 200, "choice(a,b)", "loguniform(1,2)", "a=b",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_text_stays_this_text_as_value_key_file_and_flag(text, tmp_path):
    tree = {"a": text, text: [text, {text: text}]}
    (tmp_path / "t.yaml").write_text(dump(tree), encoding="utf-8")
    assert read_file(tmp_path / "t.yaml") == tree
    problems = []
    given = read_flags([flag("tracking.tags.a", text), flag("b", [text, {"c": text}])], problems)
    assert not problems
    assert given.plain() == {"tracking": {"tags": {"a": text}}, "b": [text, {"c": text}]}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": "\ud800"}, "half a character"),
        ({"a": "\0"}, "NUL"),
        ({"\udfff": 1}, "must be text"),
        ({1: 2}, "must be text"),
        ({"a": math.inf}, "not a finite number"),
        ({"a": math.nan}, "not a finite number"),
        ({"a": MAX_WHOLE}, "too many digits"),
        ({"a": {1}}, "plain values only"),
        ({"a": "x" * MAX_BYTES}, "has 262,1.. bytes as YAML"),
        ({"a": [0] * MAX_VALUES}, "holds 20,003 values"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tree, said):
    with pytest.raises(ConfigError, match=said):
        dump(tree)


def test_a_number_is_read_only_if_it_can_be_written():
    assert read(dump(read(f"a: {MAX_WHOLE - 1}"))) == {"a": MAX_WHOLE - 1}
    for text in (f"0x{MAX_WHOLE:x}", str(MAX_WHOLE)):
        problems = []
        parse(f"a: {text}", "f.yaml", problems)
        assert "too many digits" in str(problems[0])


SOUP = [
    "model:", "data:", "name: ", "toy", "digits", "{", "}", "[", "]", ", ", ": ", "\n", "\n  ",
    "- ", "&a ", "*a", "!!python/name:os.system ", "!", "search: ", "loguniform", "low: ", "high: ",
    "1e-3", ".nan", "'", '"', "|", ">", "#", "%", "@", "`", "? ", "---", "...", "\t", "optimizer:",
    "lr: ", "train:", "epochs: ", "env:", "num_envs: ", "group_size: ", "extends: ", "c.yaml",
    "stop: ", "wrappers: ", "kwargs: ", "null", "true", "-3", "0", "likelihood: ", "seed: ",
]  # fmt: skip


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from(SOUP), max_size=40).map("".join),
        st.lists(st.sampled_from(SOUP), max_size=25).map(lambda parts: MODEL + "".join(parts)),
        st.text(string.printable, max_size=80),
    ),
    st.lists(
        st.text(max_size=20) | st.sampled_from(["seed=x", "data=a", "model=vae", "=", "a.=1"])
    ),
    st.booleans(),
)
def test_any_text_gives_a_config_or_a_config_error(folder, text, flags, search):
    (folder / "c.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    message = ""
    try:
        resolved = load_config("c.yaml", flags, search=search)
    except ConfigError as error:
        message = str(error)
    assert "pydantic" not in message
    assert message or isinstance(resolved, Resolved)


@settings(max_examples=100, deadline=None)
@given(
    section=st.sampled_from(["model", "data", "optimizer", "train", "resources", "seed"]),
    value=trees,
)
def test_any_tree_in_a_section_gives_a_config_or_a_config_error(section, value):
    from rayloom.config.resolved import config_from_dict, to_dict

    tree = {"model": {"name": "toy"}, "data": {"name": "digits"}, section: value}
    try:
        config = config_from_dict(tree)
    except ConfigError:
        return
    assert config_from_dict(to_dict(config)) == config


def test_only_a_plain_merge_key_is_one():
    """`"<<"` in quotes, and `<<` as a value, are text like any other."""
    assert read('{a: {"<<": 1}, b: <<}') == {"a": {"<<": 1}, "b": "<<"}
    assert read(dump({"<<": {"x": "<<"}})) == {"<<": {"x": "<<"}}
