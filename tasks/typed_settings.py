"""`TypedSettings`: dataclasses of settings whose values have the types of their fields."""

import builtins
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar


def is_named(value: object, kind: str) -> bool:
    """Whether the annotation `kind` names the type of `value`. What it names is right and needs no further look, which
    would import torch; what it does not name may be right all the same."""
    name = "Mapping" if isinstance(value, Mapping) else type(value).__name__.removesuffix("Type")
    return name in re.findall(r"\w+", kind)


class TypedSettings:
    """Base of dataclasses, in modules whose annotations are texts: ValueError for a value that is not of the type of
    its field. Types that are imported for type checkers alone stand for any."""

    prefix: ClassVar[str] = ""
    """What the command line puts in front of the names of the fields."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value, kind = getattr(self, field.name), str(field.type)
            if value is not field.default and not is_named(value, kind):
                self._check(field.name, value, kind)

    def _check(self, name: str, value: Any, kind: str) -> None:
        from backbones.checks import check_type

        known = vars(sys.modules[type(self).__module__])
        unknown = dict.fromkeys(
            set(re.findall(r"[A-Za-z]\w*", kind)) - known.keys() - vars(builtins).keys(), Any
        )
        check_type(f"{self.prefix}{name}", value, eval(kind, {**unknown, **known}))
