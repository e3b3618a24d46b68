"""Tokens, keys and headers that are known by their form, whatever stands around them.

One row per form: texts of which one must occur (a fast check), and the pattern. Where a pattern has
a group `keep`, that stays. Patterns are compiled when their text occurs.
"""

import functools
import re

_END = r"(?![A-Za-z0-9])"
_START = r"(?<![A-Za-z0-9])"
_VALUE = r"[^\s\"'`,;<>{}\\]"

FORMS: tuple[tuple[tuple[str, ...], str], ...] = (
    # clouds
    (("AKIA", "ASIA", "ABIA", "ACCA"), _START + r"A(?:KIA|SIA|BIA|CCA)[0-9A-Z]{16}" + _END),
    (("ABSK",), _START + r"ABSK[A-Za-z0-9+/=]{40,}"),
    (("AIza",), _START + r"AIza[\w-]{35}" + _END),
    (("GOCSPX-",), r"GOCSPX-[\w-]{20,}"),
    (("ya29.",), r"ya29\.[\w.-]{20,}"),
    (("1//0",), _START + r"1//0[\w-]{30,}"),
    (("Q~",), _START + r"[\w.~-]{3}\dQ~[\w.~-]{31,34}"),
    (("AccountKey=", "AccessKey="), r"(?P<keep>Acc(?:ount|ess)Key=)[A-Za-z0-9+/]{20,}={0,2}"),
    (("sig=",), r"(?P<keep>[?&;]sig=)[\w%+/=-]{16,}"),
    (("LTAI",), _START + r"LTAI[A-Za-z0-9]{12,}"),
    (("AKID",), _START + r"AKID[A-Za-z0-9]{28,}" + _END),
    (("dop_v1_", "doo_v1_", "dor_v1_"), r"do[opr]_v1_[a-f0-9]{40,}"),
    (("dapi", "dkea", "dose"), _START + r"(?:dapi|dkea|dose)[a-f0-9]{32}(?:-\d)?" + _END),
    (("HRKU-",), r"HRKU-[\w-]{30,}"),
    (("fly",), _START + r"(?:fo1|fm[12][ar]?|flyv1)_[\w+/=.,-]{20,}"),
    (("FlyV1 ",), r"(?P<keep>FlyV1 )[\w+/=.,-]{20,}"),
    (("hvs.", "hvb.", "hvr."), _START + r"hv[sbr]\.[\w-]{20,}"),
    ((".atlasv1.",), r"[A-Za-z0-9]{14}\.atlasv1\.[\w=-]{30,}"),
    (("pul-",), _START + r"pul-[a-f0-9]{40}" + _END),
    # code, packages, containers
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), _START + r"gh[pousr]_\w{16,}"),
    (("github_pat_",), r"github_pat_\w{16,}"),
    (("gl",), _START + r"gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|soat|ffct)-[\w.-]{16,}"),
    (("ATBB", "ATATT", "ATCTT"), _START + r"AT(?:BB|ATT|CTT)[\w=-]{20,}"),
    (("npm_",), _START + r"npm_[A-Za-z0-9]{30,}"),
    (("pypi-",), r"pypi-[\w-]{32,}"),
    (("dckr_",), r"dckr_(?:pat|oat)_[\w-]{20,}"),
    (("rubygems_",), r"rubygems_[a-f0-9]{40,}"),
    (("oy2",), _START + r"oy2[a-z0-9]{43}" + _END),
    (("crates", "cio"), _START + r"cio[A-Za-z0-9]{32}" + _END),
    (("AKCp", "cmVmd"), _START + r"(?:AKCp[A-Za-z0-9]{60,}|cmVmd[A-Za-z0-9]{55,})"),
    (("CCIPAT_", "bkua_"), _START + r"(?:CCIPAT_|bkua_)\w{20,}"),
    # machine learning
    (("hf_", "api_org_"), _START + r"(?:hf|api_org)_[A-Za-z0-9]{16,}"),
    (("sk-", "sk_"), _START + r"(?:sk-(?=[\w-]*\d)[\w-]{16,}|sk_[a-f0-9]{40,})"),
    (
        (
            "gsk_",
            "xai-",
            "pplx-",
            "r8_",
            "nvapi-",
            "tgp_",
            "jina_",
            "lsv2_",
            "pcsk_",
            "csk-",
        ),
        _START
        + r"(?:gsk_|xai-|pplx-|r8_|nvapi-|tgp_v1_|jina_|lsv2_(?:pt|sk)_|pcsk_|csk-)[\w-]{20,}",
    ),
    (("wandb_v1_",), r"wandb_v1_\w{20,}"),
    # messages, mail, money
    (("xox", "xapp-", "xwfp-"), r"(?:xox[a-z]|xapp|xwfp)-[\w-]{10,}"),
    (("hooks.slack.com",), r"(?P<keep>hooks\.slack\.com/)(?:services|workflows|triggers)/[\w/+-]+"),
    (("/api/webhooks/",), r"(?P<keep>/api/webhooks/)\d+/[\w-]+"),
    (
        ("webhook.office.com", ".logic.azure.com"),
        r"(?P<keep>(?:webhook\.office|logic\.azure)\.com[:/])[^\s\"']+",
    ),
    (("api.telegram.org",), r"(?P<keep>api\.telegram\.org/(?:file/)?bot)\d+:[\w-]+"),
    ((":AA",), _START + r"\d{8,10}:AA[\w-]{32,}"),
    (("M", "N", "O"), r"(?<![\w.-])[MNO][A-Za-z0-9_-]{23,27}\.[\w-]{6}\.[\w-]{27,40}(?![\w.-])"),
    (("mfa.",), _START + r"mfa\.[\w-]{60,}"),
    (("SK", "AC"), _START + r"(?:SK|AC)[0-9a-f]{32}" + _END),
    (("SG.",), _START + r"SG\.[\w-]{16,}\.[\w-]{16,}"),
    (("key-",), _START + r"key-[0-9a-f]{32}" + _END),
    (("-us",), _START + r"[0-9a-f]{32}-us\d{1,2}" + _END),
    (
        ("sk_live", "sk_test", "rk_live", "rk_test", "whsec_", "sq0", "shp"),
        _START
        + r"(?:[sr]k_(?:live|test)_|whsec_|sq0(?:atp|csp)-|shp(?:at|ca|pa|ss)_)[\w+/=-]{16,}",
    ),
    (("EAAA",), _START + r"EAAA[A-Za-z0-9_-]{50,}"),
    (("access_token$",), r"access_token\$(?:production|sandbox)\$[a-z0-9]+\$[a-f0-9]+"),
    (("xkeysib-",), r"xkeysib-[\w-]{20,}"),
    (("PMAK-",), r"PMAK-[\w-]{30,}"),
    (
        ("lin_api_", "lin_oauth_", "secret_", "ntn_"),
        _START + r"(?:lin_api_|lin_oauth_|secret_|ntn_)[A-Za-z0-9]{32,}",
    ),
    (
        ("figd_", "dp.", "sntry"),
        _START + r"(?:figd_|dp\.(?:pt|st|ct|sa)\.|sntry[su]_)[\w.=+/-]{30,}",
    ),
    (
        ("glsa_", "glc_", "NRAK-", "nrak-", "phx_", "phc_", "sbp_"),
        _START + r"(?:glsa_|glc_|NRAK-|phx_|phc_|sbp_)[\w+/=]{24,}",
    ),
    (("tskey-",), r"tskey-[\w-]{16,}"),
    (("AGE-SECRET-KEY-",), r"AGE-SECRET-KEY-1[0-9A-Z]{50,}"),
    (("ops_ey",), r"ops_ey[\w+/=-]{40,}"),
    # commands and files of one program
    (
        ("--password-stdin",),
        r"(?P<keep>\becho +(?:-n +)?[\"']?)[^\s\"'|$]+(?=[\"']? *\|[^\n]{0,200}--password-stdin)",
    ),
    (
        ("htpasswd",),
        r"(?P<keep>\bhtpasswd +-\w*b\w* +(?:\S+ +)?[^\s\"'$]+ +[\"']?)[^\s\"'$][^\s\"']*",
    ),
    (("ssh-keygen",), r"(?P<keep>\bssh-keygen[^\n]{0,100}? -[NP] ?[\"']?)[^\s\"'$-][^\s\"']*"),
    (("%",), r"(?P<keep> -U ?[\"']?[\w.\\-]+%)[^\s\"'$]+"),
    (
        ('"username"', '\\"username\\"'),
        r"(?P<keep>\\?\"username\\?\": *\\?\"[^\"\n]{0,80}\", *\\?\"key\\?\": *\\?\")[^\"\\]+",
    ),
    # what carries a signature or a hash of a password
    (("eyJ",), _START + r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*){1,3}"),
    (("$2a$", "$2b$", "$2y$"), r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}"),
    (("$apr1$", "$1$", "$5$", "$6$", "$y$"), r"\$(?:apr1|1|5|6|y)\$[./A-Za-z0-9$=]{20,}"),
    (("$argon2",), r"\$argon2i?d?\$[\w=,$+/]{20,}"),
    (("pbkdf2",), r"(?P<keep>pbkdf2[_:]sha\d+[$:]\d+[$:])[\w+/=$]{16,}"),
    (("{SSHA", "{SHA}"), r"\{S?S?HA\d*\}[A-Za-z0-9+/=]{20,}"),
)


@functools.cache
def compiled(index: int) -> "re.Pattern[str]":
    """The pattern of a row, compiled once."""
    return re.compile(FORMS[index][1])


def _keep(match: "re.Match[str]") -> str:
    return (match.groupdict().get("keep") or "") + "***"


def hide_forms(text: str) -> str:
    """The text with every known form hidden."""
    for index, (needles, _) in enumerate(FORMS):
        if any(needle in text for needle in needles):
            text = compiled(index).sub(_keep, text)
    return text
