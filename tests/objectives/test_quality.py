from collections.abc import Callable
from types import SimpleNamespace

import pytest
from torch import nn

from mobo_mpq.errors import InputError
from mobo_mpq.objective import Direction
from mobo_mpq.objectives.quality import quality_info
from mobo_mpq.objectives.tasks import LoadedTask


@pytest.fixture
def task() -> Callable[[str], LoadedTask]:
    def make(direction: str) -> LoadedTask:
        source = SimpleNamespace(
            model=nn.Identity, train=[], val=[], metric=len, metric_name="score", direction=direction
        )
        return LoadedTask.of(source, "somewhere:task", "toy")

    return make


@pytest.mark.parametrize(
    ("direction", "value", "reference"),
    [
        ("maximize", 0.97, 0.87),
        ("maximize", 97.0, 87.0),
        ("maximize", 1.0, 0.9),
        ("minimize", 2.0, 2.4),
        ("minimize", -2.0, -1.6),
    ],
)
def test_default_reference(task: Callable[[str], LoadedTask], direction: str, value: float, reference: float) -> None:
    info = quality_info(task(direction), value)
    assert info.reference == pytest.approx(reference)
    assert (info.name, info.unit, info.direction) == ("score", "", Direction(direction))


def test_given_reference(task: Callable[[str], LoadedTask]) -> None:
    assert quality_info(task("maximize"), 0.97, 0.5).reference == 0.5
    assert quality_info(task("maximize"), 0.97, worst_quality=0.0).reference == 0.0


def test_reference_that_is_not_finite(task: Callable[[str], LoadedTask]) -> None:
    with pytest.raises(InputError, match="'score' has reference nan; expected a finite number"):
        quality_info(task("maximize"), 0.97, float("nan"))
