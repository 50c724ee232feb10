"""Every error that the package raises on purpose.

::

    MoboError                 anything below; the command line prints it in one line
    +-- InputError            wrong use or bad input: exit code 2
    |   +-- UnknownName       a task, target, strategy, ... that does not exist
    |   +-- InfeasibleBudget  no legal policy is that cheap
    |   +-- TaskError         a task that cannot be loaded, lacks a member or returns nonsense
    |   +-- PolicyError       a policy that does not fit the space or the model
    |   +-- JournalError      a study's journal that cannot be read
    +-- WorkError             the work itself failed: exit code 1
        +-- TrainingDiverged  a fine-tune whose loss is no longer finite
        +-- ExportMismatch    an exported file does not compute what the network computes

A message says what was wrong with which value, what was expected, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from decimal import ROUND_CEILING, Context


class MoboError(Exception):
    """Anything that this package raises on purpose."""


class InputError(MoboError):
    """Wrong use or bad input. The command line exits with 2."""


class UnknownName(InputError):
    """A name that is not among the known ones.

    Args:
        kind: what was looked up, "task" or "target".
        name: the name that was asked for.
        known: the names that exist.
        hint: the next step, a sentence.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        listed = ", ".join(names) if names else "none"
        super().__init__(f"unknown {kind} '{name}'; known: {listed}.{guess}{' ' + hint if hint else ''}")
        self.kind, self.name, self.known = kind, name, tuple(names)


class InfeasibleBudget(InputError):
    """No legal policy is as cheap as the budget asks.

    Args:
        budget: name of the budget, "latency_s".
        cheapest: the cheapest possible value.
        asked: the value that was asked for.
        beside: other budgets that the cheapest value keeps; empty when it is the cheapest of all.
    """

    def __init__(self, budget: str, cheapest: float, asked: float, beside: Iterable[str] = ()) -> None:
        others = " and ".join(f"'{name}'" for name in beside)
        within = f" within the budget on {others}" if others else ""
        super().__init__(
            f"budget '{budget}' of {asked:.6g} is impossible: the cheapest legal policy{within} costs "
            f"{_up(cheapest):.6g}; raise the budget to at least that, or allow fewer bits"
        )
        self.budget, self.cheapest, self.asked, self.beside = budget, cheapest, asked, tuple(beside)


def _up(value: float) -> float:
    """The next number of six digits: rounded down, it would be refused in its turn."""
    return float(Context(prec=6, rounding=ROUND_CEILING).create_decimal_from_float(value - 1e-10 * abs(value)))


class TaskError(InputError):
    """A task that cannot be loaded, lacks a member or returns nonsense."""


class PolicyError(InputError):
    """A policy that does not fit the space or the model."""


class JournalError(InputError):
    """A study's journal that cannot be read."""


class WorkError(MoboError):
    """The work itself failed. The command line exits with 1."""


class TrainingDiverged(WorkError):
    """A fine-tune whose loss is no longer finite."""


class ExportMismatch(WorkError):
    """An exported file that does not compute what the network computes."""
