"""What of a plugin's folder is sent to a cluster, and what stays at home."""

import os
import subprocess

import pytest

from rayloom.core.errors import UserError
from rayloom.distributed.cargo import is_key_like, pack
from rayloom.distributed.joining import package_folders
from rayloom.distributed.uploads import staged
from rayloom_pipelines.cli import submit

KEY = "-----BEGIN RSA PRIVATE" + " KEY-----\n"
KEY_LIKE = [
    "id_rsa", "id_ed25519", "id_rsa.pub", ".env", ".env.local", "prod.env", "server.pem", "tls.key",
    "secrets.yaml", "my-secrets.json", "credentials", "aws_credentials.csv", ".netrc", "_netrc",
    ".npmrc", ".pypirc", ".pgpass", ".git-credentials", "kubeconfig", "prod.kubeconfig", "a.p12",
    "my-service-account.json", "client_secret_1.json", "token.txt", "api_key.txt", "passwords.csv",
    ".aws/config", ".ssh/known_hosts", "x/.kube/config", "terraform.tfvars", "deploy_rsa", "a.kdbx",
]  # fmt: skip
CODE = [
    "__init__.py",
    "secrets.py",
    "credentials.py",
    "tokens.py",
    "data/words.txt",
    "token_map.py",
]


@pytest.fixture
def plugin(tmp_path):
    folder = tmp_path / "mine"
    (folder / "data").mkdir(parents=True)
    for name in CODE:
        (folder / name).write_text("x = 1\n")
    for name in KEY_LIKE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("s3cret\n")
    (folder / "deploy").write_text(KEY)  # says nothing by its name
    (tmp_path / "outside.txt").write_text("not mine\n")
    (folder / "link.py").symlink_to(tmp_path / "outside.txt")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    return folder


def git(folder, *words):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def names(cargo):
    return [path.as_posix() for path in cargo.files]


@pytest.mark.parametrize("name", KEY_LIKE)
def test_names_of_keys_are_known(name, tmp_path):
    assert is_key_like((tmp_path / name).relative_to(tmp_path)), name


@pytest.mark.parametrize(
    "name", [*CODE, "environment.yml", "vocab.txt", "keyboard.json", "special_tokens_map.json"]
)
def test_names_of_code_and_data_are_none(name, tmp_path):
    assert not is_key_like((tmp_path / name).relative_to(tmp_path)), name


def test_outside_a_work_tree_python_files_go(plugin):
    cargo = pack(plugin)
    assert names(cargo) == sorted(name for name in CODE if name.endswith(".py"))
    assert cargo.left_out["link.py"] == cargo.left_out["folder"] == "a link"
    assert cargo.left_out["id_rsa"] == "named like a key or a secret"
    assert "data/words.txt" in cargo.left_out
    assert cargo.left_out["pipe"] == "no file"
    said = "\n".join(cargo.remarks())
    assert "link.py" in said
    assert "--send FILE" in said


def test_in_a_work_tree_tracked_files_go_but_keys_and_links_never(plugin):
    git(plugin.parent, "init", "-q")
    git(plugin.parent, "add", "-f", ".")
    (plugin / "scratch.py").write_text("x = 2\n")
    cargo = pack(plugin)
    assert names(cargo) == sorted(CODE)
    assert cargo.left_out["scratch.py"] == "not tracked by git"
    assert cargo.left_out["deploy"] == "holds a private key"
    named = [plugin / "scratch.py", plugin / ".env", plugin / "deploy"]
    assert set(names(pack(plugin, named=named))) == {*CODE, "scratch.py", ".env", "deploy"}
    with pytest.raises(UserError, match="is a link: name the file itself"):
        pack(plugin, named=[plugin / "link.py"])
    with pytest.raises(UserError, match="is no file"):
        pack(plugin, named=[plugin / "nothing.py"])


def test_a_folder_that_would_be_no_package_is_refused(plugin):
    git(plugin.parent, "init", "-q")
    with pytest.raises(UserError, match=r"its __init__\.py is not tracked by git\. `git add`"):
        pack(plugin)


def test_what_is_staged_holds_no_secret_and_no_link(plugin, tmp_path):
    package = tmp_path / "rayloom_x"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "table.json").write_text("{}")
    (package / ".env").write_text("s3cret")
    (package / "id_rsa").write_text("s3cret")
    (package / "passwd").symlink_to("/etc/passwd")
    with staged({"mine": plugin, "c.yaml": "a: 1\n"}, [package]) as uploads:
        found = [path for upload in uploads for path in upload.path.rglob("*") if path.is_file()]
        assert not any(path.is_symlink() for upload in uploads for path in upload.path.rglob("*"))
        assert not [path for path in found if "s3cret" in path.read_text()]
        assert not [path for path in found if KEY.strip() in path.read_text()]
        sent = {str(path.relative_to(uploads[0].path)) for path in found if "modules" in path.parts}
        assert sent == {"__init__.py", "table.json"}
        assert any("like a key" in remark for remark in uploads[-1].remarks)
    with pytest.raises(UserError, match="cannot be sent"), staged({"x.py": plugin / "link.py"}, []):
        pass


def test_nothing_of_rayloom_itself_is_left_at_home():
    assert [pack(folder, everything=True).left_out for folder in package_folders()] == [{}, {}, {}]


def test_send_names_a_file_of_a_plugin_s_folder(plugin):
    assert submit._named([str(plugin / ".env")], {"mine": plugin}) == [plugin / ".env"]
    with pytest.raises(UserError, match="lies in no folder of a plugin"):
        submit._named(["/etc/passwd"], {"mine": plugin})


def test_a_command_with_a_secret_is_not_shown_on_the_dashboard(tmp_path):
    submit.refuse_secrets(["train", "c.yaml", "--plugin", "mine", str(tmp_path), "train.epochs=3"])
    word = "hunter" + "22x"
    for bad in (f"tracking.uri=http://me:{word}@h", f"tracking.tags.token={word}"):
        with pytest.raises(UserError, match=r"=.*\*\*\*.* holds a secret") as told:
            submit.refuse_secrets(["resume", "run-1", bad])
        assert word not in str(told.value)
