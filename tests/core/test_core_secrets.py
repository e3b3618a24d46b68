"""What is hidden, and what stays readable."""

import time

import pytest

from planted import planted
from rayloom.config.yaml_marks import shown
from rayloom.core.secrets import (
    HIDDEN,
    mask,
    mask_command,
    mask_environment,
    mask_tree,
    remember_url,
)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_planted_kind_is_hidden(seed):
    kinds = planted(seed)
    assert len({one.kind for one in kinds}) >= 200
    shown = {one.kind: mask(f"+{one.text}\n") for one in kinds}
    assert [one.kind for one in kinds if one.secret in shown[one.kind]] == []
    assert [one.kind for one in kinds if one.secret[-10:] in shown[one.kind]] == []
    assert [one.kind for one in kinds if mask(shown[one.kind]) != shown[one.kind]] == []
    whole = mask("".join(f"+{one.text}\n" for one in kinds))
    assert [one.kind for one in kinds if one.secret in whole] == []


ORDINARY = r"""
index 0a1b2c3d..4e5f6a7b 100644
"sha256": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
commit 0123456789abcdef0123456789abcdef01234567
"integrity": "sha512-v2kDEe57lecTulaDIuNTPy3Ry4gLGJ6Z1O3vE1krgXZNrsQ+LFTGHVxVjcXPs17LhbZVGedA=="
ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7Vw2XyZq9 me@host
run vae-digits-20260101-120000-abcde, model models:/vae-digits@champion
id 6f1a2c1e-52f1-4a8e-9a53-3f0c7b0b6f10
token = tokenizer.next_token(x); num_tokens = 5; max_tokens: int = 100
self.token_embedding = nn.Embedding(vocab_size, dim)
key = self.k_proj(x); query_key_value = 3 * dim; sort_key = "name"; STATE_KEY = "state"
api_key = config.api_key; password = args.password; password: str; secret = None
connect(password=password, token=tok)
headers = {"Authorization": f"Bearer {token}"}
password = os.environ["DB_PASSWORD"]; password=${DB_PASSWORD}; API_KEY=<your key>
class TestHTTPServer2HandlesBrokenPipeCorrectly3Times(TestCaseWithServerAndClient):
AdaptiveMaxPool2d, Mean_Acc1298_Std_Mem40_Rolloff, float8_e4m3fnuz, MiniGrid-Empty-5x5-v0
https://host:5000/x https://[::1]:5000/a@b http://h:80/x@y me@example.org ssh://host/x
/tmp/pytest-of-root/pytest-0/test_a0/runs/x lr=1e-3 optimizer.lr=0.001 seed=3
Basic authentication is used; the bearer of this cookie: see below. pass: 3 passes
"""


def test_ordinary_text_stays_as_it_is():
    assert [mask(line) for line in ORDINARY.splitlines() if mask(line) != line] == []
    picture = '"image/png": "' + "iVBORw0KGgoAAAANSUhEUg7x" * 40 + '"'
    assert mask(picture) == picture


def test_commands_variables_and_trees():
    command = ["train", "--token", "a b", "--api-key=x1", "tracking.tags.token=plain", "n.tokens=5"]
    shown = ["train", "--token", HIDDEN, "--api-key=***", "tracking.tags.token=***", "n.tokens=5"]
    assert mask_command(command) == shown
    made = mask_environment(
        {"MY_PAT": "x", "OMP_NUM_THREADS": "2", "U": "http://a:b@h", "P_KEY": "y"}
    )
    assert made == {"MY_PAT": "***", "OMP_NUM_THREADS": "2", "U": "http://***@h", "P_KEY": "***"}
    tree = {"password": 12345, "max_tokens": 5, "tokens": ["a"], "auth": {"user": "me", "pwd": "x"}}
    assert mask_tree(tree) == {
        "password": "***",
        "max_tokens": 5,
        "tokens": ["***"],
        "auth": {"user": "me", "pwd": "***"},
    }


def test_a_password_that_this_process_was_given_is_hidden_wherever_it_appears(monkeypatch):
    word = "pä" + "ss7/" + "wörd x"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", word)
    assert word not in mask(f"the server said {word}!")
    assert "ss7" not in mask(repr({"x": word})) + mask(ascii(word))
    monkeypatch.setenv("SOME_URL", "http://me:" + "Zx9%2Fq77" + "@h/x")
    assert mask("cannot parse 'Zx9/q77' at once") == "cannot parse '***' at once"
    monkeypatch.setenv("WORD_TOKEN", "mlflow")  # a common word is hidden by its name alone
    assert mask("mlflow answers") == "mlflow answers"
    remember_url("postgresql://u:" + "Qwe" + "rty99@h/db")
    assert "rty99" not in mask("password Qwerty99 was refused")


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "a-",
        '"',
        "password=",
        'password="',
        "http://a:",
        "curl ",
        "mysql -p",
        "password:\n",
        " ",
    ],
)
def test_hostile_text_takes_no_quadratic_time(part):
    text = "password" + part * (100_000 // len(part))
    began = time.process_time()
    mask(text)
    assert time.process_time() - began < 3.0


@pytest.mark.parametrize("limit", [30, 60, 90])
def test_a_message_that_is_cut_shows_no_half_of_a_secret(limit):
    """Of half a token nobody can tell that it was one."""
    kinds = [one for one in planted(3) if one.text.isprintable() and "'" not in one.text]
    assert len(kinds) > 100
    shown_as = {one.kind: mask(shown(one.text, limit)) for one in kinds}
    assert [one.kind for one in kinds if one.secret[:10] in shown_as[one.kind]] == []
