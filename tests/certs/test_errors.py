"""The tree drawn in certs/errors.py is the tree there is."""

import inspect
import re

from hauberk.certs import errors

DRAWN = re.compile(r"^    ([│├└─ ]*)([A-Z]\w+)", re.MULTILINE)


def tree(error: type[Exception]) -> list[str]:
    return [error.__name__, *(name for below in error.__subclasses__() for name in tree(below))]


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = DRAWN.findall(errors.__doc__ or "")
    assert [name for _, name in drawn] == tree(errors.CertsError)
    for depth, name in drawn:
        ancestors = getattr(errors, name).__mro__.index(errors.CertsError)
        assert len(depth) == 4 * ancestors, f"{name} is drawn at another depth"


def test_every_error_says_what_it_means() -> None:
    assert all(inspect.getdoc(getattr(errors, name)) for name in tree(errors.CertsError))
