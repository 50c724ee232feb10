"""Recipes are held to what they do on digits."""

import pytest

from mobo_mpq.graph import Network
from mobo_mpq.objectives.tasks import LoadedTask, load_task
from mobo_mpq.training.data import first_inputs
from mobo_mpq.training.recipes import TrainingContext


@pytest.fixture(scope="module")
def digits() -> LoadedTask:
    return load_task("digits")


@pytest.fixture(scope="module")
def context(digits: LoadedTask) -> TrainingContext:
    calibration = first_inputs(digits.train, 4, seed=0)
    return TrainingContext(Network.from_model(digits.model(), calibration[0]), digits.train, digits.loss, calibration)
