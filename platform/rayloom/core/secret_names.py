"""Which names say that their value is a secret: `DB_PASS`, `apiKey`, `tracking.tags.token`."""

import functools
import re
from typing import Literal

Strength = Literal["", "weak", "strong"]

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_STRONG_PART = re.compile(
    r"passw|passphrase|passwd|secret|credential|apikey|api_key|access_key|private_key|auth_key"
    r"|account_key|signing_key|encryption_key|encrypt_key|master_key|license_key|storage_key"
    r"|service_key|deploy_key|admin_key|publish_key|client_key_data|ssh_key|pgp_key|gpg_private"
    r"|auth_token|access_token|refresh_token|bearer_token|session_token|security_token|id_token"
    r"|api_token|bot_token|(?:github|gitlab|hf|npm|pypi|slack|wandb|registry|deploy)_token"
    r"|authtoken|accesstoken|connection_string|conn_str|connectionstring|htpasswd|pgpass|mdp\b"
    r"|kennwort|passwort|contrase|senha|mot_de_passe|motdepasse|wachtwoord|hasło|haslo|lösenord"
    r"|пароль|парол|密码|密碼|パスワード|비밀번호|webhook_url|amz_signature|amz_credential"
)
_STRONG_WORD = {"password", "passwd", "pwd", "pw", "passphrase", "passcode", "secret", "jwt"}
_WEAK_WORD = {"token", "tokens", "pass", "auth", "cookie", "cookies", "bearer", "sas", "dsn", "otp"}
_WEAK_WORD |= {"signature", "sig", "authorization", "salt", "pin", "totp", "nonce", "psk", "creds"}
_WEAK_WORD |= {"pat", "sessionid", "csrftoken", "webhook"}
# The last word of a name that is about a secret and is none.
_ABOUT = set(
    (
        "file files path paths dir folder name names id ids type types url uri endpoint len length"
        " count size num dim dims idx index limit ttl expiry expires expiration policy field label"
        " prompt hint env var arn version format regex pattern re mask store manager provider sock"
        " socket port host user username mode method scheme class factory func fn error errors"
        " exception required enabled valid algorithm embedding embeddings emb usage budget length"
        " per reader writer parser kind template placeholder form forms part parts word words"
        " strength rule rules list map table set getter setter handler helper hash digest"
        " fingerprint position pos mean loss rate ratio bytes chars age days timeout retries logits"
        " probs shape dtype spec config settings bool flag"
    ).split()
)
_COUNTED = {"num", "n", "max", "min", "total", "count", "is", "has", "use", "no", "with", "without"}
_COUNTED |= {"allow", "require", "show", "hide", "redact", "strip", "check", "pad", "eos", "bos"}
_COUNTED |= {"unk", "sep", "cls", "special", "next", "public"}
_KEY_OF = set(  # `primary_key` and its like: keys of tables and dictionaries
    (
        "primary foreign public sort cache dict partition metric state map row hash group index"
        " unique natural composite object lookup json yaml toml param params name path prop tag"
        " label attr item entry hot short routing dedup idempotency rng prng jax up down left right"
        " shift ctrl alt space enter escape any first last old new current next prev previous my"
        " the this that each other config option field column sub parent child root node edge best"
        " score step run image file data dataset model layer head query value values unknown"
        " missing wrong bad good by of to in no not is has lock arrow tab return delete home end"
        " page function context event subject"
    ).split()
)


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


@functools.lru_cache(maxsize=4096)
def strength(name: str) -> Strength:
    """How surely a name says that its value is a secret.

    Args:
        name: As it is written: `DB_PASS`, `--api-key`, `tracking.tags.token`; of a dotted one the
            last part counts.

    Returns:
        `strong` (`password`, `apiKey`), `weak` (`token`, `X_KEY`: the value has to look like a
        secret where text is searched), or "".
    """
    words = _words(name.rpartition(".")[2])
    if not words:
        return ""
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    joined = "_".join(words)
    if joined.endswith("access_key_id"):
        return "strong"
    if words[-1] in _ABOUT and not _STRONG_PART.search(joined.rpartition("_")[2] or " "):
        exempt = joined.endswith(("webhook_url", "client_key_data"))
        return "strong" if exempt else ""
    if words[0] in _COUNTED and len(words) > 1:
        return ""
    if _STRONG_PART.search(joined) or _STRONG_WORD & set(words):
        return "strong"
    if _WEAK_WORD & set(words) or any(word.endswith("token") for word in words):
        return "weak"
    if words[-1] == "key" and len(words) > 1 and words[-2] not in _KEY_OF:
        return "weak"
    return ""


def is_secret_name(name: str) -> bool:
    """Whether data under this name (an environment variable, a key of JSON) is a secret."""
    return bool(strength(name))
