import subprocess
import sys

import pytest

from mobo_mpq.errors import UnknownName
from mobo_mpq.strategies.registry import describe, make_strategy, strategy_names, uses_sensitivity
from mobo_mpq.testing.toys import make_toy


def test_every_strategy_has_one_line_and_can_be_made() -> None:
    black_box = {"mobo", "nsga2", "random", "sobol", "tpe"}
    assert set(strategy_names()) >= black_box | {"amp", "bsq", "ddq", "hawq", "ompq", "seam", "sensitivity"}
    problem = make_toy(2, sensitivity=True).problem
    for name in strategy_names():
        assert describe(name).strip()
        assert "\n" not in describe(name)
        assert make_strategy(name, problem, seed=5).seed == 5


def test_which_of_them_use_sensitivities() -> None:
    using = [name for name in strategy_names() if uses_sensitivity(name)]
    assert using == ["amp", "hawq", "mobo", "ompq", "sensitivity"]
    with pytest.raises(UnknownName, match="unknown strategy 'sensitive'; .* Did you mean 'sensitivity'?"):
        uses_sensitivity("sensitive")


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown strategy 'mobi'; known: amp, .*mobo, .* Did you mean 'mobo'?"):
        make_strategy("mobi", make_toy(2).problem, seed=0)
    with pytest.raises(UnknownName, match="Run 'mobo-mpq strategies'"):
        describe("x")


def test_listing_them_imports_no_solver() -> None:
    code = (
        "import sys; from mobo_mpq.strategies.registry import strategy_names, describe;"
        "[describe(name) for name in strategy_names()];"
        "print([m for m in ('torch', 'botorch', 'optuna', 'gpytorch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
