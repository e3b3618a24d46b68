"""A run folder's address gets nothing of this machine unless the user names that server."""

import pytest

from rayloom.core.errors import UserError
from rayloom.tracking import address
from rayloom.tracking.address import allowed, name_server, plain, server_of

TOKEN = {"MLFLOW_TRACKING_TOKEN": "secret"}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A user who has named nothing yet."""
    monkeypatch.setattr(address, "_NAMED", set())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


FOREIGN = [
    "http://evil.example",
    "https://evil.example/mlflow",
    "http://127.0.0.1:9",
    "http://user:password@mine.example:5000@evil.example",
    "http://mine.example:5000.evil.example",
    "http://mine.example:5001",
    "https://mine.example:5000",  # the token would go to another service
    "http://mine.example:5000\\@evil.example",
    "http://[::1",
    "http://mine.example:99999",
    "databricks",
    "databricks://profile",
    "uc",
    "postgresql://mine.example/db",
    "postgresql://evil.example/db",
    "mssql+pyodbc://?driver=/tmp/evil.so",
    "mysql://evil.example/db?local_infile=1",
    "sqlite:////home/me/.mozilla/cookies.sqlite",
    "",
]


@pytest.mark.parametrize("environ", [{}, TOKEN])
@pytest.mark.parametrize("recorded", FOREIGN)
def test_what_only_the_folder_names_is_refused_and_how_to_name_it_is_said(recorded, environ):
    with pytest.raises(UserError, match=r"tracking\.uri="):
        allowed(recorded, ["http://mine.example:5000", "sqlite:///mlflow.db"], environ=environ)


@pytest.mark.parametrize(
    ("recorded", "mine", "used"),
    [
        ("http://mine.example:5000", "http://mine.example:5000/", "http://mine.example:5000"),
        ("http://MINE.example", "http://mine.example:80", "http://MINE.example"),
        ("http://***@mine.example", "http://me:pw@mine.example", "http://me:pw@mine.example"),
        ("http://evil:x@mine.example", "http://me:pw@mine.example", "http://me:pw@mine.example"),
        ("http://mine.example/other", "http://me:pw@mine.example", "http://mine.example/other"),
        ("databricks", "databricks", "databricks"),
        ("postgresql://db.example/m", "postgresql://me:pw@db.example/m", None),
    ],
)
def test_what_the_user_names_is_used_in_the_users_own_spelling(recorded, mine, used):
    assert allowed(recorded, [mine], environ=TOKEN) == (used or mine)


def test_a_server_named_before_is_used_while_there_is_nothing_to_give_away(home):
    name_server("http://me:pw@mine.example:5000")
    address._NAMED.clear()  # as a later command
    recorded = "http://mine.example:5000"
    assert allowed(recorded, [], environ={}) == recorded
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "DATABRICKS_TOKEN"):
        with pytest.raises(UserError, match="credentials now"):
            allowed(recorded, [], environ={name: "x"})
    (home / ".mlflow").mkdir()
    (home / ".mlflow" / "credentials").write_text("[mlflow]\n")
    with pytest.raises(UserError, match="credentials now"):
        allowed(recorded, [], environ={"HOME": str(home)})
    assert allowed(recorded, [recorded], environ=TOKEN) == recorded


def test_a_database_file_is_the_users_own_now_or_before(home):
    own, other = f"sqlite:///{home / 'mlflow.db'}", f"sqlite:///{home / 'other.db'}"
    assert allowed(own, ["sqlite:///mlflow.db"], environ=TOKEN) == own
    with pytest.raises(UserError, match="did not name"):
        allowed(other, ["sqlite:///mlflow.db"], environ={})
    assert not (home / "other.db").exists()
    name_server("sqlite:///other.db")
    address._NAMED.clear()
    assert allowed(other, [], environ=TOKEN) == other


def test_workers_are_told_and_remember_nothing(home):
    name_server("http://mine.example", remember=False)
    assert allowed("http://mine.example", [], environ=TOKEN) == "http://mine.example"
    address._NAMED.clear()
    with pytest.raises(UserError):
        allowed("http://mine.example", [], environ={})
    assert not (home / "config").exists()


def test_one_spelling_of_a_server():
    assert server_of("HTTP://Me:pw@Host.example/x?y#z") == "http://host.example:80"
    assert server_of("https://[::1]:8443/x") == "https://[::1]:8443"
    assert server_of("http://host:port") == ""
    assert plain("http://me:pw@host:1/x") == "http://host:1/x"
    assert plain("databricks") == "databricks"
