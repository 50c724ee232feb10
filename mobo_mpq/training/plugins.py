"""What recipes and learners have in common: a file for each, found by name, with options that are checked early."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.trial import Recipe


class Plugin(Protocol):
    """Stateless: one serves all trials."""

    default: ClassVar[Recipe]
    """Every option it takes, at its default."""

    def options(self, recipe: Recipe) -> Any:
        """Parse and check a recipe's options."""


P = TypeVar("P", bound=Plugin)
C = TypeVar("C", bound=type[Any])


class Plugins(Generic[P]):
    """All of one kind, by name.

    Args:
        kind: for messages: "recipe".
        package: whose modules register them when it is imported.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._known: dict[str, P] = {}

    def register(self, default: Recipe) -> Callable[[C], C]:
        """Class decorator: make one known by ``default.kind``.

        Args:
            default: every option it takes, at its default.
        """

        def known(plugin: C) -> C:
            plugin.default = default
            self._known[default.kind] = plugin()
            return plugin

        return known

    def forget(self, name: str) -> None:
        """Take one out again."""
        del self._known[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all."""
        import_module(self.package)  # its modules import those that use this, and register themselves
        return tuple(sorted(self._known))

    def __getitem__(self, name: str) -> P:
        """One by name.

        Raises:
            UnknownName: when there is none of that name.
        """
        if name not in self.names:
            raise UnknownName(self.kind, name, self.names)
        return self._known[name]

    def check(self, recipe: Recipe) -> None:
        """Whether a recipe can be run.

        Raises:
            UnknownName: for an unknown one, or an option that it does not take.
            InputError: for epochs below 0, a share of the data outside (0, 1], or an option of a wrong value.
        """
        plugin = self[recipe.kind]
        what = f"{self.kind} '{recipe.kind}'"
        if not 0.0 <= recipe.epochs < float("inf"):
            raise InputError(f"{what} has epochs {recipe.epochs!r}; expected 0 or more")
        if not 0.0 < recipe.train_fraction <= 1.0:
            raise InputError(f"{what} has train_fraction {recipe.train_fraction!r}; expected more than 0, at most 1")
        plugin.options(recipe)
