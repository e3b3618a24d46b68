"""What is a secret, and text and data without it: the one place that every exit asks.

Hidden are: what this process itself was given as a password (`known`), user information in URLs,
private keys, tokens of known forms (`secret_forms`), headers and flags that carry credentials,
values assigned to names that say so, and quoted or assigned strings that look random. Kept are
hashes: hexadecimal digits alone, UUIDs, `sha256-...` and what stands in a path.
"""

import base64
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from rayloom.core.secret_forms import hide_forms
from rayloom.core.secret_names import Strength, is_secret_name, strength
from rayloom.core.secret_values import hide_assigned, hide_random

HIDDEN = "***"

_IN_URL = re.compile(
    r"(?P<head>[A-Za-z][A-Za-z0-9+.-]{0,30}:(?:\\?/){2})"
    r"(?:(?!\*\*\*@)[^\s/?#\"'<>`\\@]{0,500}(?:@[^\s/?#\"'<>`\\@]{1,500}){0,9}@(?=[^\s@])"
    # a password with an unescaped / in it: `user:` is followed by no port
    r"|[^\s/@:?#\"'<>`\\\[]{0,200}:(?!\d{1,5}(?:[/?#\s\"'\\,;)]|$))[^\s\"'<>`\\]{0,500}@(?=[\w\[{$]))"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?P<kind>(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?)-----"
    r"(?:(?!-----END )[\s\S])*?(?:-----END (?P=kind)-----|(?=-----BEGIN)|(?=\n[ +-]?diff )|\Z)"
)
_PUTTY_KEY = re.compile(r"(?P<head>Private-Lines: *\d+)(?:\\n|\r?\n[ +-]?)[\w+/=\r\n +-]*")
_HEADER = re.compile(
    r"(?P<head>\b(?:(?:proxy-)?authorization|x-auth-\w+|x-[\w-]*(?:key|token|secret)"
    r"|private-token|job-token|deploy-token|api-key|apikey)\\?[\"']?\]?[ \t]*"
    r"(?::[ \t]*[bfru]{0,2}\\*[\"']?|=[ \t]*[bfru]{0,2}\\*[\"'])[ \t]*"
    r"(?:(?:bearer|basic|token|digest|negotiate|apikey|aws4-hmac-sha256|bot|key)\b[ \t:]+)?)"
    r"(?P<value>(?=\S)(?!(?:\w+ +)?\*\*\*)(?!\w+ *=)(?![A-Za-z_.]+[\[(])[^\"'\r\n\\]{6,})"
    r"|(?P<head2>\b(?:set-)?cookie\\?[\"']?\]?[ \t]*[:=][ \t]*\\*[\"']?)"
    r"(?P<value2>[\w.~-]+=[^\s;\"']{4,}[^\"'\r\n\\]*)",
    re.IGNORECASE,
)
_SCHEME = re.compile(
    r"(?P<head>\b(?:Bearer|Basic|bearer|basic|BEARER|BASIC) +)"
    r"(?P<value>(?=[\w+/.~%-]*[\d=+/])[\w+/=.~%-]{8,})"
)
_FLAG = re.compile(
    # programs whose short flags take a password: `curl -u me:secret`, `mysql -psecret`
    r"(?P<head>\b(?:curl|wget|http|https|xh|skopeo|ab|svn|snmpget|twine|lftp)\b[^\n|;&]{0,300}?[\s\"']"
    r"(?:-u|-a|-U|-E|--user|--proxy-user|--auth|--creds|--src-creds|--dest-creds)[\s=\"',]{0,5}"
    r"[^\s:\"'$]{0,60}:)(?P<value>[^\s\"']+)"
    r"|(?P<head2>\b(?:mysql|mysqldump|mysqladmin|mariadb|mongo|mongosh|sshpass|docker|podman"
    r"|buildah|helm|oc|twine|az|redis-cli|smbclient|ldapsearch|rabbitmqadmin|7z|7za|unzip|zip)\b"
    r"[^\n|;&]{0,300}?[\s\"'](?:-p|-P|-w|-a)(?![a-zA-Z-]+[= ]"
    r"|\s*\d{1,5}(?::\d+)?(?:\s|$))[ =\"',]{0,5})"
    r"(?P<value2>[^\s\"'-][^\s\"']*)"
    r"|(?P<head3>-pass(?:in|out)?[ =][\"']?pass:)(?P<value3>[^\s\"']+)"
)
_NETRC = re.compile(
    r"(?P<head>\b(?:machine\s+\S+|default)\s+(?:login\s+\S+\s+)?(?:account\s+\S+\s+)?password\s+)"
    r"(?P<value>\S+)"
)
_PLACEHOLDER = re.compile(
    r"\s*(?:\*+|\{[^}]*\}?|\$\{[^}]*\}?|\$\([^)]*\)?|\$[A-Z_][A-Z0-9_]*|<[^>]*>|%\(?\w*\)?s?|\.\.\.)?\s*$"
)


def _hide(match: "re.Match[str]") -> str:
    for suffix in ("", "2", "3"):
        groups = match.groupdict()
        if groups.get(f"head{suffix}") is not None:
            value = groups[f"value{suffix}"]
            kept = _PLACEHOLDER.match(value) is not None
            return groups[f"head{suffix}"] + (value if kept else HIDDEN)
    return HIDDEN


def mask(text: str) -> str:
    """The text without secrets; each stands there as `***`.

    Masking twice changes nothing more. Meant for what people and programs read (messages, diffs,
    commands, reports), not for values that a run needs again.
    """
    return _mask(text, known())


def _mask(text: str, values: tuple[str, ...]) -> str:
    """`mask`, given what is known; short texts (names of metrics, say) are remembered."""
    if len(text) < 4:
        return text
    return _mask_short(text, values) if len(text) <= _SHORT else _mask_any(text, values)


def _mask_any(text: str, values: tuple[str, ...]) -> str:
    for value in values:
        if value in text:
            text = text.replace(value, HIDDEN)
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(HIDDEN, text)
    if "Private-Lines" in text:
        text = _PUTTY_KEY.sub(rf"\g<head> {HIDDEN}", text)
    text = mask_urls(text)
    text = hide_forms(text)
    text = _HEADER.sub(_hide, text)
    text = _SCHEME.sub(_hide, text)
    text = _FLAG.sub(_hide, text)
    if "password" in text:
        text = _NETRC.sub(_hide, text)
    return hide_random(hide_assigned(text))


_SHORT = 100  # characters
_mask_short = functools.lru_cache(maxsize=4096)(_mask_any)


def mask_urls(text: str) -> str:
    """The text with the user information of its URLs hidden, and nothing else changed."""
    if "@" not in text or ":/" not in text.replace("\\/", "/"):
        return text
    return _IN_URL.sub(rf"\g<head>{HIDDEN}@", text)


def mask_tree(data: Any) -> Any:
    """JSON-able data without secrets: texts are masked, and what stands under a secret's name.

    Numbers and truth values stay, but for whole numbers under names such as `password`.
    """
    return _masked(data, known(), 0)


def _masked(data: Any, values: tuple[str, ...], depth: int) -> Any:
    if isinstance(data, str):
        return _mask(data, values)
    if depth > _DEPTH:
        return HIDDEN
    if isinstance(data, Mapping):
        found = {}
        for key, value in data.items():
            kind = strength(key) if isinstance(key, str) else ""
            name = _mask(key, values) if isinstance(key, str) else key
            if kind:
                found[name] = _under_secret(value, kind, values, depth + 1)
            else:
                found[name] = _masked(value, values, depth + 1)
        return found
    if isinstance(data, list | tuple):
        return [_masked(item, values, depth + 1) for item in data]
    return data


def _under_secret(value: Any, kind: Strength, values: tuple[str, ...], depth: int) -> Any:
    if isinstance(value, str):
        plain = not value or (kind == "weak" and _NUMBER.fullmatch(value))
        return value if plain else HIDDEN
    if isinstance(value, list | tuple) and depth <= _DEPTH:
        return [_under_secret(item, kind, values, depth + 1) for item in value]
    if kind == "strong" and isinstance(value, int) and not isinstance(value, bool):
        return HIDDEN
    return _masked(value, values, depth)


_DEPTH = 100
_NUMBER = re.compile(r"[+-]?[\d.]{1,12}(?:e[+-]?\d+)?|true|false|null|none", re.IGNORECASE)


def mask_command(arguments: Iterable[str]) -> list[str]:
    """A command line without secrets: also the argument after `--token` and its like."""
    shown: list[str] = []
    hide = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        kind = strength(name.lstrip("-")) if equals and value else ""
        if hide or (kind and _under_secret(value, kind, (), 0) == HIDDEN):
            shown.append(f"{name}={HIDDEN}" if kind and not hide else HIDDEN)
        else:
            shown.append(mask(argument))
        is_flag = argument.startswith("-") and "=" not in argument
        hide = is_flag and is_secret_name(argument.lstrip("-")) and not hide
    return shown


def mask_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment variables without secrets, by name, form and randomness."""
    return {
        name: HIDDEN if value and is_secret_name(name) else mask(value)
        for name, value in variables.items()
    }


# ---- what this process was given ----

_remembered: set[str] = set()
_PLAIN_WORD = re.compile(r"[a-z]{1,11}|[A-Z]{1,11}|\d{1,7}")


def remember(value: str | None) -> None:
    """Hide this value wherever it appears from now on: a password that somebody typed or set.

    Values that could be an ordinary word or number (`mlflow`, `5000`) are too common to be hidden
    everywhere; they are hidden where a name or a URL says what they are.
    """
    if not value or len(value) < 6 or _PLAIN_WORD.fullmatch(value) or HIDDEN in value:
        return
    if value.startswith("/") and os.path.exists(value):
        return  # a file that holds the secret
    _remembered.update(
        (
            value,
            quote(value, safe=""),
            json.dumps(value)[1:-1],
            repr(value)[1:-1],
            ascii(value)[1:-1],
        )
    )


def remember_url(url: str | None) -> None:
    """Hide the password of a URL wherever it appears, as it is written and as it is meant."""
    match = _IN_URL.match(url or "")
    if match is not None:
        user, colon, password = match.group()[len(match["head"]) : -1].partition(":")
        value = password if colon else user
        remember(value)
        remember(unquote(value))
        packed = f"{unquote(user)}:{unquote(password)}" if colon else ""
        remember(base64.b64encode(packed.encode()).decode())


def known() -> tuple[str, ...]:
    """What this process knows as a secret, longest first: remembered, or in its environment."""
    return _known(tuple(os.environ.items()), len(_remembered))


@functools.lru_cache(maxsize=2)
def _known(environment: tuple[tuple[str, str], ...], count: int) -> tuple[str, ...]:
    for name, value in environment:
        if is_secret_name(name):
            remember(value)
        elif "://" in value:
            remember_url(value)
    return tuple(sorted(_remembered, key=len, reverse=True))
