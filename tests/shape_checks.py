"""What the import hook of `conftest.py` puts on every checked function."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
