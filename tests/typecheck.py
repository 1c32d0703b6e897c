"""The checker behind the import hook: beartype, for which a whole number is a number, as for every type checker."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
