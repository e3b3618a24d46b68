"""Secrets by what stands beside them, and by how random they look, in text of any language.

Text here is source code, diffs, commands, configs and messages, so a name such as `token` alone
says little: `token = next(tokens)` is code, `token = "9f8a..."` is a leak. `_Finder` reads what
follows a name and decides by the strength of the name and the form of the value.
"""

import re
from collections import Counter
from itertools import pairwise
from math import log2

from rayloom.core.secret_names import Strength, is_secret_name, strength

HIDDEN = "***"

_GAP = r"(?:[ \t]|\\?\r?\n(?:[+\- ]?[ \t]*)?){0,40}"  # spaces, and a diff's line starts
_NAMED = re.compile(
    r"(?<![\w.])(?<!\w-)(?P<name>[^\W\d][\w.-]{1,120})(?P<close>\\{0,6}[\"'`]?[\])]?)"
    r"(?:[ \t]{0,30}(?P<type>:[ \t]{0,30}[\w.\[\]|&<>?*, ]{1,40}?(?==))?[ \t]{0,30}"
    r"(?P<sep>:=|=>|={1,3}|!=|\?=|\+=|:|,|\(|>)"
    rf"(?P<gap>{_GAP})|(?P<space>[ \t]{{1,30}}))"
)
_QUOTE = re.compile(r"(?P<prefix>[rRbBuUfF]{0,2}|\$|@)(?P<q>\\{0,6}(?:\"\"\"|'''|[\"'`]))")
_QUOTED = re.compile(r"[rRbBuUfF]{0,2}(?P<q>\\{0,6}[\"'`])(?P<body>(?:(?!(?P=q))[^\n])*)(?P=q)")
_BLOCK = re.compile(r"[|>][+-]?\d?[ \t]*\n(?P<body>(?:[+\- ]?[ \t]+\S[^\n]*(?:\n|\Z))+)")
_HEREDOC = re.compile(r"<<[-~]?[\"']?(?P<end>\w+)[\"']?\n(?P<body>[\s\S]*?)\n[+\- ]?\s*(?P=end)\b")
_BARE = re.compile(r"[^\s\"'`,;<>)\]}&|\\]{1,2000}")
_BARE_ENV = re.compile(r"(?:[^\s\"'`\\]|[\"'](?=\w)|\\[^\snrtu\"']){1,2000}")
_LINE = re.compile(r"[^\r\n]{0,400}")
_FALLBACK = re.compile(
    r"(?:\bor\b|\belse\b|\|\||\?\?|\bdefault[ \t]*=|[+,(])[ \t]*(?=[rbuf]?\\{0,6}[\"'])"
)
_PLACEHOLDER = re.compile(
    r"\*+|x{3,}|X{3,}|\.{2,}|\$\{[^}]*\}?|\$\([^)]*\)?|\$[A-Z_][A-Z0-9_]*|\$[a-z_]+|\{[^}]*\}|<[^>]*>|<[a-z]+"
    r"|\{\{.*\}\}|%\(?\w*\)?[sd]?|%\w+%|\[[A-Z_]+\]|@\w+@|-+|_+"
)
_NOTHING = re.compile(
    r"(?i:none|null|nil|true|false|yes|no|on|off|undefined|nan|str|int|bytes|bool|float|string|any"
    r"|object|self|cls|secretstr|text|char|varchar|dict|list|tuple|set|type|optional|required)"
    r"|[+-]?[\d._]{1,20}(?:e[+-]?\d+)?|0x[0-9a-fA-F]{1,8}"
)
_CODE = re.compile(
    r"[A-Za-z_$][\w$]*(?:\.[A-Za-z_$]\w*|::\w+|->\w+)*[(\[]|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?:$|[;,)\]}])|[(\[{*&!~-]"
    r"|(?:lambda|not|await|new|yield|function|async|typing|const|return)\b"
)
_WORDLIKE = re.compile(r"[^\W\d]+(?:[_.-][^\W\d]+)*")
_OPERATORS = re.compile(r"\s(?:if|or|and|in|is|not|for|else|[-+*/%|&<>=]+)\s|\s*[-+*/|]\s")
_CALLED = re.compile(
    r"(?:setenv|putenv|setdefault|get|getenv|environ|add|header|define|set|put|option)\($"
    r"|(?:setattr|setitem|hset|setenv)\([\w.]{1,60},[ ]?$"
)
_SETTER = re.compile(
    r"(?:^|[\s+;&|])(?:ENV|ARG|setx|set -[gxU]+|(?:configure|config) set|export|setenv|--env|-e)"
    r"[ \t]+$"
)
_PAIR = re.compile(
    r"\b(?:name|key|Name|Key)\\?[\"']?[ \t]{0,9}[:=][ \t]{0,9}"
    r"\\?[\"']?(?P<name>[\w.-]{2,80})\\?[\"']?,?"
    rf"{_GAP}\\?[\"']?(?:value|Value)\\?[\"']?[ \t]{{0,9}}[:=][ \t]{{0,9}}"
)
_DEFAULT = re.compile(r"[^()\n]{0,100}?\bdefault[ \t]{0,5}=[ \t]{0,5}")
_ARRAY = re.compile(r"[\[({]")


def hide_assigned(text: str) -> str:
    """The text without values that stand beside a name that says they are secrets."""
    return _Finder(text).masked()


class _Finder:
    """One pass over a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.spans: list[tuple[int, int]] = []

    def masked(self) -> str:
        at = 0
        while match := _NAMED.search(self.text, at):
            inside = self.spans and match.start() < self.spans[-1][1]
            kind = "" if inside else strength(match["name"])
            if kind:
                self._look(match, kind)
            # `$env:TOKEN = ` reads as a name with a type; `TOKEN` is looked at for itself
            at = match.end() if kind or not match["type"] else match.start("type") + 1
        for pair in _PAIR.finditer(self.text):  # name: DB_PASSWORD, value: ...
            if is_secret_name(pair["name"]):
                self._literal(pair.end())
        if not self.spans:
            return self.text
        parts, done = [], 0
        for start, end in sorted(self.spans):
            if start >= done:
                parts += [self.text[done:start], HIDDEN]
            done = max(done, end)
        return "".join([*parts, self.text[done:]])

    def _hide(self, start: int, end: int) -> None:
        if end > start and self.text[start:end] != HIDDEN:
            self.spans.append((start, end))

    def _look(self, match: "re.Match[str]", kind: Strength) -> None:
        at, name = match.end(), match["name"]
        before = self.text[max(0, match.start() - 40) : match.start()]
        if match["space"]:
            self._after_space(at, name, kind, before, quoted=bool(match["close"]))
        elif match["sep"] == ",":
            self._after_comma(at, kind, before, match["close"])
        elif match["sep"] == "(":
            self._in_call(at, name)
        elif match["sep"] == ">":
            self._in_tag(at, name, before)
        else:
            self._assigned(match, kind, before)

    # ---- name = value ----

    def _assigned(self, match: "re.Match[str]", kind: Strength, before: str) -> None:
        text, at = self.text, match.end()
        upper = match["name"].rpartition(".")[2].isupper()
        outside = bool(re.search(r"(?:environ\[|env\.|\$env:|getenv\()[\"'\\]*$", before))
        quote = _QUOTE.match(text, at)
        if quote:
            start, end = quote.end(), self._closing(quote)
            is_key = match["name"].lower().endswith("key")  # of a table, perhaps
            sure = outside or (upper and not is_key)
            if _secret_text(text[start:end], kind, sure=sure, named=not is_key):
                self._hide(start, end)
                self._more(end)
            return
        for pattern in (_BLOCK, _HEREDOC):
            block = pattern.match(text, at)
            if block and (kind == "strong" or outside or upper):
                self._hide(
                    block.start("body"),
                    block.end("body") - text[: block.end("body")].endswith("\n"),
                )
                return
        if "\n" in match["gap"]:
            return
        tight = (
            match["sep"] == "=" and not match["gap"] and text[match.start("sep") - 1] not in " \t"
        )
        if tight and (upper or outside or _SETTER.search(before)):
            query = before.endswith(("?", "&"))
            value = (_BARE if query else _BARE_ENV).match(text, at)
            if value and _secret_env(value.group(), kind):
                self._hide(*value.span())
            return
        self._bare(match, kind, before)

    def _bare(self, match: "re.Match[str]", kind: Strength, before: str) -> None:
        text, at = self.text, match.end()
        if re.search(r"(?i)auth$|cred", match["name"]) and text.startswith("(", at):
            self._literals(at, at + 200)  # auth=("me", "...")
            return
        value = _BARE.match(text, at)
        line = _LINE.match(text, at)
        assert line is not None
        if value is None or _CODE.match(value.group() + text[value.end() : value.end() + 1]):
            cookies = "cookie" in match["name"].lower() and text.startswith("{", at)
            if kind == "strong" or cookies:
                if _ARRAY.match(text, at):
                    self._literals(at, text.find("\n", at) if "(" != text[at] else at + 400)
                else:
                    self._more(at)
            return
        word = value.group()
        first = not before.rpartition("\n")[2].strip(" \t+-\"'{")  # the line begins with the name
        closing = (
            text[value.end() : value.end() + 1] in (",", ")", "]", "}") and match["sep"] == "="
        )
        more = line.group()[len(word) :].strip() != ""
        plural = match["name"].endswith("s") and not match["name"].lower().endswith("pass")
        prose = match["sep"] == ":" and _WORDLIKE.fullmatch(word) and (more or plural)
        if kind == "strong" and first and not plural and _sentence(line.group(), word):
            self._hide(at, line.end())
        elif prose:
            return
        elif _secret_word(word, kind, name=match["name"], closing=closing):
            self._hide(*value.span())
        elif kind == "strong":
            self._more(at)

    def _more(self, at: int) -> None:
        """Literals in the rest of the line: `x or "..."`, `"..." + "..."`."""
        line = _LINE.match(self.text, at)
        assert line is not None
        for found in _FALLBACK.finditer(self.text, at, line.end()):
            quote = _QUOTE.match(self.text, found.end())
            if quote and found.group()[0] not in ",(":
                self._hide(quote.end(), self._closing(quote))

    def _literals(self, start: int, end: int) -> None:
        end = len(self.text) if end < 0 else end
        opening = self.text[start]
        closing = {"(": ")", "[": "]", "{": "}"}[opening]
        stop = self.text.find(closing, start, end)
        for found in _QUOTED.finditer(self.text, start, end if stop < 0 else stop):
            is_key = self.text.startswith(":", found.end())
            if len(found["body"]) >= 4 and not is_key and not _PLACEHOLDER.fullmatch(found["body"]):
                self._hide(*found.span("body"))

    def _closing(self, quote: "re.Match[str]") -> int:
        """Where the text in quotes ends: the same quotes, or the line's end if they are missing."""
        text, mark, at = self.text, quote["q"], quote.end()
        line_end = text.find("\n", at)
        limit = len(text) if line_end < 0 or len(mark.lstrip("\\")) == 3 else line_end
        while True:
            found = text.find(mark, at, limit)
            if found < 0:
                return limit
            slashes = len(text[quote.end() : found]) - len(text[quote.end() : found].rstrip("\\"))
            if (mark[0] == "\\" and slashes == 0) or (mark[0] != "\\" and slashes % 2 == 0):
                return found
            at = found + 1

    # ---- other forms ----

    def _after_comma(self, at: int, kind: Strength, before: str, close: str) -> None:
        if not close.rstrip("])"):
            return
        quote = _QUOTE.match(self.text, at)
        if quote is None:  # ("--password", default="...")
            default = _DEFAULT.match(self.text, at)
            if default:
                self._literal(default.end())
            return
        end = self._closing(quote)
        body = self.text[quote.end() : end]
        if body == "value":
            return
        outer = before.rstrip("\"'\\rbuf")
        called = bool(_CALLED.search(outer)) or outer.endswith("--")  # ["--token", "..."]
        if called or (outer.endswith("(") and _mixed(body) and not is_secret_name(body)):
            if _secret_text(body, kind, sure=called):
                self._hide(quote.end(), end)
        elif looks_random(body):
            self._hide(quote.end(), end)

    def _after_space(
        self, at: int, name: str, kind: Strength, before: str, *, quoted: bool
    ) -> None:
        """`--password x`, `ENV DB_PASS x`, `name: DB_PASS` and `value: x` on the next line."""
        flag = before.endswith("-") or name.startswith("-")
        if not quoted and (flag or _SETTER.search(before)):
            self._literal(at)

    def _literal(self, at: int) -> None:
        """The text in quotes or the word at a place is a secret, unless it stands for one."""
        quote = _QUOTE.match(self.text, at)
        if quote:
            end = self._closing(quote)
            if not _PLACEHOLDER.fullmatch(self.text[quote.end() : end]):
                self._hide(quote.end(), end)
            return
        value = _BARE_ENV.match(self.text, at)
        if (
            value
            and len(value.group()) > 3
            and value.group()[0] not in "-`"
            and _secret_env(value.group(), "strong")
        ):
            self._hide(*value.span())

    def _in_call(self, at: int, name: str) -> None:
        if re.search(r"(?i)secretstr|basic_?auth|set_?pass\w*|secret_?value", name):
            self._literals_to_bracket(at)

    def _literals_to_bracket(self, at: int) -> None:
        stop = self.text.find(")", at, at + 300)
        for found in _QUOTED.finditer(self.text, at, at + 300 if stop < 0 else stop):
            before = self.text[max(0, found.start() - 20) : found.start()].rstrip()
            alone = before.endswith(("(", ","))  # no default of a `def`
            if alone and found["body"] and not _PLACEHOLDER.fullmatch(found["body"]):
                self._hide(*found.span("body"))

    def _in_tag(self, at: int, name: str, before: str) -> None:
        if before.endswith("<"):
            stop = self.text.find("</", at, at + 500)
            if stop > at and not _PLACEHOLDER.fullmatch(self.text[at:stop].strip()):
                self._hide(at, stop)


# ---- how values look ----


def _secret_text(body: str, kind: Strength, *, sure: bool, named: bool = False) -> bool:
    """Whether a quoted text is a secret. `sure`: its name is a variable of an environment."""
    bare = re.sub(r"\$?\{[^}]*\}|%\(\w+\)s|<[^>]*>", "", body).strip()
    scheme = re.sub(r"(?i)^(?:bearer|basic|token)\b\s*", "", bare)
    if not scheme or _PLACEHOLDER.fullmatch(body.strip()) or scheme in ("***", ":", "@"):
        return False
    if kind == "strong":
        return True
    if _NOTHING.fullmatch(body) or len(body) < 4 or body[0] in "<[/.":
        return False
    if sure:
        return " " not in body.strip()
    plain = named and len(body) >= 8 and body.isalpha() and body.islower()
    return " " not in body and (plain or _mixed(body) or looks_random(body))


def _secret_env(value: str, kind: Strength) -> bool:
    """Whether the value of `NAME=value` in an environment, a command or an .env file is one."""
    if _PLACEHOLDER.fullmatch(value) or (
        _NOTHING.fullmatch(value) and not (kind == "strong" and value.isdigit() and len(value) > 3)
    ):
        return False
    if re.match(r"[A-Za-z_][\w.]*\(|\$[({]|\$[A-Z_]", value):
        return False
    return kind == "strong" or (len(value) > 3 and not value.startswith(("/", "./", "~/")))


def _secret_word(word: str, kind: Strength, *, name: str, closing: bool) -> bool:
    """Whether an unquoted value in code or a config is one."""
    digits = kind == "strong" and word.isdigit() and len(word) > 3
    if _PLACEHOLDER.fullmatch(word) or (_NOTHING.fullmatch(word) and not digits):
        return False
    if digits or not _WORDLIKE.fullmatch(word):
        if kind == "strong":
            return len(word) > 2 and not _same_words(word, name)
        drawn = re.fullmatch(r"[\w+/=.~:-]+", word)
        return bool(drawn) and _mixed(word) and not _same_words(word, name)
    return kind == "strong" and not closing and "_" not in word and not _same_words(word, name)


def _sentence(line: str, word: str) -> bool:
    """Whether a whole line is a pass phrase: `password = correct horse battery`."""
    words = line.split("#")[0].split()
    plain = not _OPERATORS.search(line) and not re.search(r"[(\[{\"'=;]|[.,:]$", line)
    return 1 < len(words) <= 6 and plain and not _NOTHING.fullmatch(word)


def _same_words(value: str, name: str) -> bool:
    """Whether a value is a variable called like the name: `token=token2`."""
    return value == name or (value.isidentifier() and is_secret_name(re.sub(r"\d+$", "", value)))


def _mixed(value: str) -> bool:
    """At least six characters without spaces, with letters and digits, and no path or version."""
    return (
        len(value) >= 6
        and not re.search(r"\s|^[./~<\[]|^v?\d+(?:\.\d+)+|\($", value)
        and any(c.isdigit() for c in value)
        and any(c.isalpha() for c in value)
    )


# ---- randomness ----

_TOKEN = re.compile(r"[A-Za-z0-9+/_=.~-]{20,}")
_HASH_BEFORE = re.compile(
    r"(?i)(?:sha\d{1,3}|md5|integrity|ssh-[a-z0-9]+|ecdsa-\S+|base64)[-:=, \"']{1,4}$"
)
_LONGEST = 200  # longer runs are pictures and data


def looks_random(value: str) -> bool:
    """Whether a word of 20 letters and digits or more was drawn, not written.

    Drawn from three kinds of characters, it changes kind at almost every second one; names change
    at word borders only. Hexadecimal words and UUIDs are hashes and ids, never taken for secrets.
    """
    if not 20 <= len(value) <= _LONGEST or re.fullmatch(r"(?i)(?:0x)?[0-9a-f-]+", value):
        return False
    core = max(re.split(r"[^A-Za-z0-9]+", value), key=len)
    kinds = "".join("U" if c.isupper() else "d" if c.isdigit() else "l" for c in core)
    if len(core) < 16 or len(set(kinds)) < 3:
        return False
    changes = sum(a != b for a, b in pairwise(kinds)) / (len(core) - 1)
    written = sum(len(run) for run in re.findall("l{4,}", kinds)) / len(core)  # parts of words
    counts = Counter(core)
    entropy = -sum(n / len(core) * log2(n / len(core)) for n in counts.values())
    return changes > 0.4 and written < 0.35 and entropy > 3.3


def hide_random(text: str) -> str:
    """The text without words that look drawn at random."""

    def hide(match: "re.Match[str]") -> str:
        word = match.group()
        if word.startswith(("/", "./", "AAAA")) or _HASH_BEFORE.search(
            text, max(0, match.start() - 24), match.start()
        ):
            return word
        head, equals, value = word.partition("=")
        if equals and value.strip("=") and head.replace("_", "a").replace(".", "a").isalnum():
            return head + equals + HIDDEN if looks_random(value) else word
        return HIDDEN if looks_random(word) else word

    return _TOKEN.sub(hide, text)
