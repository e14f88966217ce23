"""Kinds: whatever there are several of (optimizers, engines, sources, families ...), each declared beside its code.

A kind has a room, a package; the modules in it declare records in a variable, and the table is read from them. Nothing
else lists them, so a new one is one file, and none can be forgotten halfway. What takes a folder of its own declares
itself in the one light module of it that the table looks into.

Invariant: a name belongs to one record, and a name without a record is an error that lists those there are.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from athanor.core.errors import UserError
from athanor.core.near import did_you_mean


class Named(Protocol):
    """What every record has."""

    @property
    def name(self) -> str: ...


Record = TypeVar("Record", bound=Named)


class Kinds(Generic[Record]):
    """The records that the modules of a package declare, by name, in the order of the modules' names.

    `what` names the kind in messages; `package` is the room's dotted name; `variable` holds a module's record or a
    tuple of them. Where every record has a folder in the room, `module` is the file in each that declares it. The
    modules are imported when the table is looked at, and for one record no more of them than it takes to find it.
    """

    def __init__(self, what: str, package: str, variable: str, module: str | None = None):
        self.what, self.package, self.variable, self.module = what, package, variable, module

    @cached_property
    def table(self) -> dict[str, Record]:
        """Name -> record. Raises UserError where two records share a name, or a declaration is none."""
        found: dict[str, Record] = {}
        for module, record in self._declared():
            if record.name in found:
                raise UserError(
                    f"{module} declares the {self.what} {record.name!r}, which another one does: rename one"
                )
            found[record.name] = record
        return found

    def _declared(self) -> Iterator[tuple[str, Record]]:
        """Each module's dotted name with each of its records; a module is imported when its turn comes.

        A module may help without declaring anything, but not under a variable that is almost the right one.
        """
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__, f"{self.package}."):
            name = module.name if self.module is None else f"{module.name}.{self.module}"
            if self.module is not None and importlib.util.find_spec(name) is None:
                raise UserError(
                    f"{module.name} is no {self.what}: its {self.module}.py, with {self.variable}, is missing"
                )
            names = vars(importlib.import_module(name))
            declared: Any = names.get(self.variable, ())
            others = [other for other, value in names.items() if other.isupper() and not isinstance(value, Kinds)]
            if self.variable not in names and (near := get_close_matches(self.variable, others, n=1, cutoff=0.8)):
                raise UserError(f"{name} declares {near[0]}: a {self.what} is declared in {self.variable}")
            if self.variable not in names and self.module is not None:
                raise UserError(f"{name} declares no {self.what}: give it a {self.variable}")
            for record in declared if isinstance(declared, tuple) else (declared,):
                if not isinstance(getattr(record, "name", None), str):
                    raise UserError(f"{name}: {self.variable} holds {record!r}, which is no {self.what}")
                yield name, record

    def _find(self, name: str) -> Record | None:
        """The record of that name; what comes after it is not imported for it."""
        if "table" in self.__dict__:
            return self.table.get(name)
        return next((record for _, record in self._declared() if record.name == name), None)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def __getitem__(self, name: str) -> Record:
        """The record of that name. Raises UserError naming those there are."""
        if (record := self._find(name)) is None:
            hint = did_you_mean(name, self.table)
            raise UserError(f"no {self.what} {name!r}: {hint}there are {', '.join(self.table)}")
        return record

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def records(self) -> list[Record]:
        """All of them."""
        return list(self.table.values())


class NameOf:
    """Annotation of a recipe's field that holds the name of a record: `Annotated[str, NameOf(OPTIMIZERS)]`.

    The table is read when a value is validated or a form is drawn, so a recipe imports without what it names.
    """

    def __init__(self, kinds: Kinds[Any]):
        self.kinds = kinds

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.kinds)}

    def _known(self, name: str) -> str:
        if name not in self.kinds:
            *others, last = (f"'{known}'" for known in self.kinds)
            expected = f"{', '.join(others)} or {last}" if others else last
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
        return name
