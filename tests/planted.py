"""Secrets of many kinds, made up when they are asked for, so that no scanner finds one here.

Each is a text as a user could have it in an uncommitted line, and the part that must not be seen.
"""

import base64
import random
import string
from dataclasses import dataclass

LOWER, UPPER, DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
LETTERS, HEX = LOWER + UPPER + DIGITS, DIGITS + "abcdef"


@dataclass(frozen=True)
class Planted:
    """One secret in its surroundings."""

    kind: str
    text: str
    secret: str


class _Maker:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.made: list[Planted] = []

    def draw(self, alphabet: str, count: int) -> str:
        """Letters and digits in turn where both are there, so that every draw looks drawn."""
        found = [self.random.choice(alphabet) for _ in range(count)]
        if alphabet == LETTERS and count > 5:
            found[1], found[3], found[4] = "q", "7", "R"
        return "".join(found)

    def word(self) -> str:
        return "hunter" + self.draw(DIGITS, 4) + self.draw(LOWER, 3)

    def add(self, kind: str, text: str, secret: str) -> None:
        assert secret in text, kind
        self.made.append(Planted(kind, text, secret))


def planted(seed: int = 0) -> list[Planted]:
    """At least one of each kind."""
    make = _Maker(seed)
    _tokens(make)
    _code(make)
    _configs(make)
    _commands(make)
    _addresses(make)
    _blocks(make)
    return make.made


def _tokens(make: _Maker) -> None:
    draw = make.draw
    b64 = base64.b64encode(bytes(make.random.randrange(256) for _ in range(64))).decode()
    jwt = ".".join(
        ["ey" + "J" + draw(LETTERS, 20), "ey" + "J" + draw(LETTERS, 40), draw(LETTERS, 43)]
    )
    forms = {
        "aws key id": "AK" + "IA" + draw(UPPER + DIGITS, 16),
        "aws session key id": "AS" + "IA" + draw(UPPER + DIGITS, 16),
        "google api key": "AI" + "za" + draw(LETTERS, 35),
        "google oauth secret": "GOC" + "SPX-" + draw(LETTERS, 28),
        "google access token": "ya" + "29." + draw(LETTERS, 60),
        "azure client secret": draw(LETTERS, 3) + "8" + "Q~" + draw(LETTERS, 34),
        "github classic": "gh" + "p_" + draw(LETTERS, 36),
        "github fine-grained": "github" + "_pat_" + draw(LETTERS, 22) + "_" + draw(LETTERS, 59),
        "github actions": "gh" + "s_" + draw(LETTERS, 36),
        "gitlab": "gl" + "pat-" + draw(LETTERS, 20),
        "gitlab runner": "gl" + "rt-" + draw(LETTERS, 20),
        "hugging face": "h" + "f_" + draw(LETTERS, 34),
        "openai": "s" + "k-proj-" + draw(LETTERS, 48),
        "openai old": "s" + "k-" + draw(LETTERS, 48),
        "anthropic": "s" + "k-ant-api03-" + draw(LETTERS, 90) + "AA",
        "groq": "gs" + "k_" + draw(LETTERS, 52),
        "replicate": "r" + "8_" + draw(LETTERS, 37),
        "nvidia": "nv" + "api-" + draw(LETTERS, 64),
        "wandb new": "wandb" + "_v1_" + draw(LETTERS, 60),
        "slack bot": "xo" + "xb-" + draw(DIGITS, 12) + "-" + draw(LETTERS, 24),
        "slack app": "xa" + "pp-1-" + draw(LETTERS, 30),
        "stripe live": "s" + "k_live_" + draw(LETTERS, 24),
        "stripe restricted": "r" + "k_live_" + draw(LETTERS, 24),
        "stripe webhook": "wh" + "sec_" + draw(LETTERS, 32),
        "npm": "np" + "m_" + draw(LETTERS, 36),
        "pypi": "py" + "pi-AgEI" + draw(LETTERS, 80),
        "docker hub": "dck" + "r_pat_" + draw(LETTERS, 27),
        "twilio": "S" + "K" + draw(HEX, 32),
        "sendgrid": "S" + "G." + draw(LETTERS, 22) + "." + draw(LETTERS, 43),
        "mailgun": "ke" + "y-" + draw(HEX, 32),
        "mailchimp": draw(HEX, 32) + "-u" + "s12",
        "telegram": draw("123456789", 10) + ":A" + "A" + draw(LETTERS, 33),
        "discord": "M" + draw(LETTERS, 23) + "." + draw(LETTERS, 6) + "." + draw(LETTERS, 38),
        "databricks": "da" + "pi" + draw(HEX, 32),
        "digitalocean": "do" + "p_v1_" + draw(HEX, 64),
        "heroku": "HR" + "KU-" + draw(LETTERS, 40),
        "vault": "hv" + "s." + draw(LETTERS, 24),
        "terraform cloud": draw(LETTERS, 14) + ".atlas" + "v1." + draw(LETTERS, 60),
        "linear": "lin" + "_api_" + draw(LETTERS, 40),
        "notion": "nt" + "n_" + draw(LETTERS, 46),
        "grafana": "gl" + "sa_" + draw(LETTERS, 32) + "_" + draw(HEX, 8),
        "sentry": "snt" + "ryu_" + draw(HEX, 64),
        "shopify": "shp" + "at_" + draw(HEX, 32),
        "square": "sq0" + "atp-" + draw(LETTERS, 22),
        "tailscale": "ts" + "key-auth-" + draw(LETTERS, 30),
        "age": "AGE-SECRET" + "-KEY-1" + draw(UPPER + DIGITS, 58),
        "json web token": jwt,
        "bcrypt": "$2" + "b$12$" + draw(LETTERS, 53),
        "crypt": "$6" + "$" + draw(LETTERS, 12) + "$" + draw(LETTERS, 86),
        "drawn at random": draw(LETTERS, 32),
        "drawn base64": b64[:44],
    }
    for kind, token in forms.items():
        make.add(kind, f'client = Client("{token}")', token)


def _code(make: _Maker) -> None:
    word = make.word
    lines = {
        "environ": 'os.environ["X_PASSWORD"] = "{}"',
        "environ, key": "os.environ['STRIPE_KEY'] = '{}'",
        "environ, token": 'os.environ["MY_TOKEN"]="{}"',
        "environ, unlisted": 'os.environ["MLFLOW_PAT"] = "{}"',
        "setdefault": 'os.environ.setdefault("DB_PASSWORD", "{}")',
        "putenv": 'os.putenv("DB_PASS", "{}")',
        "setenv": 'monkeypatch.setenv("API_TOKEN", "{}")',
        "getenv default": 'x = os.getenv("DB_PASSWORD", "{}")',
        "getenv or": 'password = os.environ.get("DB_PASSWORD") or "{}"',
        "python name": 'password = "{}"',
        "python annotated": 'db_password: str = "{}"',
        "python attribute": "self.secret = '{}'",
        "python keyword": 'connect(host="h", password="{}", port=1)',
        "python dict": 'config = {{"user": "me", "password": "{}"}}',
        "python dict item": 'settings["api_key"] = "{}"',
        "python dict()": 'dict(api_key="{}")',
        "python bytes": "SECRET_KEY = b'{}'",
        "python raw": 'passwd = r"{}"',
        "python f-string": 'uri = f"{{user}}:x"; password = f"{}-{{suffix}}"',
        "python list": 'passwords = ["{}"]',
        "python in brackets": 'api_key = (\n+    "{}"\n+)',
        "python triple": 'SECRET = """\n+{}\n+"""',
        "python tuple": 'pairs = [("password", "{}")]',
        "python conditional": 'secret = "a-1-b" if test else "{}"',
        "basic auth tuple": 'requests.get(url, auth=("me", "{}"))',
        "basic auth call": 'HTTPBasicAuth("me", "{}")',
        "secretstr": 'SecretStr("{}")',
        "camel case": 'const apiKey = "{}";',
        "camel token": 'accessToken: "{}",',
        "go": 'dbPassword := "{}"',
        "php": "define('DB_PASSWORD', '{}');",
        "ruby": ":password => '{}',",
        "java": 'String clientSecret = "{}";',
        "powershell": '$env:API_TOKEN = "{}"',
        "notebook": '    "os.environ[\\"X_TOKEN\\"] = \\"{}\\"\\n",',
        "argparse": 'parser.add_argument("--password", default="{}")',
        "setattr": 'setattr(config, "password", "{}")',
        "header dict": 'headers = {{"Authorization": "Bearer {}"}}',
        "header token": 'headers = {{"Authorization": "token {}"}}',
        "header custom": 'headers["X-Api-Key"] = "{}"',
        "header raw": "Authorization: {}",
        "cookie": "Cookie: session={}; theme=dark",
        "set-cookie": "Set-Cookie: id={}; HttpOnly",
        "private-token": "PRIVATE-TOKEN: {}",
        "comparison": 'if password == "{}":',
        "non-ascii name": 'passwort = "{}"',
        "comment": "# password: {}",
    }
    for kind, line in lines.items():
        secret = word()
        make.add(kind, line.format(secret), secret)
    for kind, value in {
        "spaces": f"correct horse {word()}",
        "escaped quote": f'ab\\"{word()}',
        "other quote": f"it's {word()}",
        "non-ascii": f"пароль-ß-{word()}-数字",
        "symbols": f"{word()}!@#%^&*()",
        "emoji": f"{word()}🔑{word()}",
    }.items():
        make.add(f"quoted {kind}", f'password = "{value}"', value)


def _configs(make: _Maker) -> None:
    word, draw = make.word, make.draw
    lines = {
        "dotenv": "DB_PASS={}",
        "dotenv key": "MAPS_KEY={}",
        "dotenv quoted": 'DB_PASSWORD="{}"',
        "dotenv secret": "SECRET={}",
        "dotenv auth": "REDIS_AUTH={}",
        "ini": "password = {}",
        "properties": "spring.datasource.password={}",
        "yaml": "password: {}",
        "yaml quoted": "  api_key: '{}'",
        "yaml list": "- token: {}",
        "yaml block": "password: |\n+  {}\n+other: 1",
        "kubernetes": '- name: DB_PASSWORD\n+  value: "{}"',
        "kubernetes json": '{{"name": "DB_PASSWORD", "value": "{}"}}',
        "compose": "      - POSTGRES_PASSWORD={}",
        "json": '  "password": "{}",',
        "json escaped": '"{{\\"token\\": \\"{}\\"}}"',
        "toml": 'secret_key = "{}"',
        "xml": "<password>{}</password>",
        "xml attribute": '<user name="me" password="{}"/>',
        "maven": "<privateKey>{}</privateKey>",
        "dockerfile": "ENV DB_PASSWORD={}",
        "dockerfile space": "ENV API_TOKEN {}",
        "dockerfile arg": "ARG NPM_TOKEN={}",
        "terraform": 'secret_key = "{}"',
        "npmrc": "//registry.npmjs.org/:_authToken={}",
        "npmrc password": "_password={}",
        "pypirc": "password: {}",
        "netrc": "machine example.org login me password {}",
        "azure storage": "DefaultEndpointsProtocol=https;AccountName=x;AccountKey={};Endpoint=y",
        "ado": "Server=h;Database=d;User Id=me;Password={};",
        "odbc": "Driver=x;UID=me;PWD={};",
        "kubeconfig token": "    token: {}",
        "wandb": "WANDB_API_KEY={}",
        "makefile": "export API_KEY := {}",
        "fish": "set -gx API_TOKEN {}",
        "markdown": "- password: `{}`",
    }
    for kind, line in lines.items():
        secret = word()
        if kind == "azure storage":
            secret = draw(LETTERS, 86) + "=="
        make.add(kind, line.format(secret), secret)
    packed = base64.b64encode(f"me:{word()}".encode()).decode()
    make.add("docker config", f'"auths": {{"r.io": {{"auth": "{packed}"}}}}', packed)
    make.add("basic header", f"Authorization: Basic {packed}", packed)
    key = draw(LETTERS, 120)
    make.add("kubeconfig key", f"    client-key-data: {key}", key)
    key = draw(LETTERS, 18) + "/" + draw(LETTERS, 10) + "+" + draw(LETTERS, 10)
    make.add("aws secret key", f"aws_secret_access_key = {key}", key)
    key = draw(HEX, 32)
    make.add("hexadecimal key", f"DATADOG_API_KEY={key}", key)
    key = draw(HEX, 40)
    make.add("keyword hexadecimal", f'login(api_key="{key}")', key)
    key = draw("123456789", 8)
    make.add("password of digits", f"password: {key}", key)


def _commands(make: _Maker) -> None:
    word = make.word
    lines = {
        "export": "export DB_PASS={}",
        "export quoted": "export API_KEY='{}'",
        "inline": "PGPASSWORD={} psql -h h",
        "curl -u": "curl -u me:{} https://example.org",
        "curl --user": "curl --user 'me:{}' https://example.org",
        "curl header": "curl -H 'Authorization: Bearer {}' https://example.org",
        "curl api header": 'curl -H "X-Api-Key: {}" https://example.org',
        "curl data": "curl -d 'password={}' https://example.org",
        "wget": "wget --password={} https://example.org",
        "mysql -p": "mysql -u root -p{} db",
        "mysqldump": "mysqldump --password={} db",
        "docker login": "docker login -u me -p {} r.io",
        "docker run": "docker run -e DB_PASSWORD={} image",
        "redis-cli": "redis-cli -a {}",
        "sshpass": "sshpass -p {} ssh h",
        "twine": "twine upload -u __token__ -p {} dist/*",
        "huggingface-cli": "huggingface-cli login --token {}",
        "wandb login": "wandb login --api-key {}",
        "openssl": "openssl rsa -passin pass:{} -in key.pem",
        "flag": "tool --password {} run",
        "flag =": "tool --auth-token={} run",
        "ansible": "ansible_ssh_pass={}",
    }
    for kind, line in lines.items():
        secret = word()
        make.add(kind, line.format(secret), secret)


def _addresses(make: _Maker) -> None:
    word, draw = make.word, make.draw
    lines = {
        "http": "http://me:{}@example.org/x",
        "http token": "https://{}@github.com/me/x.git",
        "pip index": "index-url = https://me:{}@pypi.example.org/simple",
        "requirements": "--extra-index-url https://__token__:{}@p.example.org/simple",
        "postgres": "postgresql+psycopg2://me:{}@db:5432/x",
        "mysql uri": "mysql://root:{}@db/x",
        "mongodb": "mongodb+srv://me:{}@c.example.org/?w=1",
        "redis": "redis://:{}@h:6379/0",
        "amqp": "amqps://me:{}@h//",
        "ftp": "ftp://me:{}@h",
        "mlflow": "tracking.uri=https://me:{}@mlflow",
        "proxy": "https_proxy=http://me:{}@proxy:3128",
        "at sign inside": "postgres://me:a@{}@db/x",
        "slash inside": "postgres://me:a/{}@db/x",
        "query": "https://example.org/x?user=me&token={}&y=1",
        "query key": "https://example.org/x?api_key={}",
        "s3 presigned": "https://b.s3.amazonaws.com/k?X-Amz-Signature={}&X-Amz-Expires=60",
        "sas": "https://a.blob.core.windows.net/c/b?sv=2022&sig={}%3D&se=2030",
        "gcs signed": "https://storage.googleapis.com/b/o?X-Goog-Signature={}",
        "git credentials": "https://me:{}@gitlab.example.org",
    }
    for kind, line in lines.items():
        secret = draw(LETTERS, 40) if kind in ("sas", "s3 presigned") else word()
        make.add(kind, line.format(secret), secret)
    for kind, head in {
        "slack hook": "https://hooks.slack" + ".com/services/T0AAAAAA/B0AAAAAA/",
        "discord hook": "https://discord.com/api/" + "webhooks/123456789012345678/",
        "telegram address": "https://api.telegram" + ".org/bot1234567890:",
    }.items():
        secret = draw(LETTERS, 35)
        make.add(kind, f"{head}{secret}", secret)


def _blocks(make: _Maker) -> None:
    body = [make.draw(LETTERS + "+/", 64) for _ in range(4)]
    for kind in ("RSA ", "EC ", "OPENSSH ", "ENCRYPTED ", "DSA ", ""):
        head, foot = (
            f"-----BEGIN {kind}PRIVATE" + " KEY-----",
            f"-----END {kind}PRIVATE" + " KEY-----",
        )
        make.add(f"{kind}private key", "\n+".join([head, *body, foot]), body[2])
    head = "-----BEGIN RSA PRIVATE" + " KEY-----"
    make.add("private key, cut", "\n+".join([head, *body[:3]]), body[1])
    make.add("private key, one line", f'"{head}\\n' + "\\n".join(body) + '"', body[2])
    pgp = "-----BEGIN PGP PRIVATE" + " KEY BLOCK-----"
    end = pgp.replace("BEGIN", "END")
    make.add("pgp private key", "\n+".join([pgp, "", *body, end]), body[1])
    text = f'"private_key_id": "x", "private_key": "{head}\\n{body[0]}\\n{body[1]}\\n"'
    make.add("google service account", '{"type": "service_account", ' + text + "}", body[1])
    putty = "PuTTY-User-Key" + "-File-3: ssh-rsa\n+Private-Lines: 2\n+" + "\n+".join(body[:2])
    make.add("putty", putty, body[1])
