import numpy as np
import pytest
from numpy.typing import NDArray

from mobo_mpq.engine.features import Features, padded, variable_losses
from mobo_mpq.objective import Direction, ObjectiveInfo
from mobo_mpq.problem import Problem
from mobo_mpq.testing.toys import make_toy

LOG_4 = np.log(4.0)
QUALITY = ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.5)


def problem(
    sensitivity: list[list[float]] | None, weights: tuple[int, ...] = (2, 4, 8), activations: tuple[int, ...] = (8,)
) -> Problem:
    layers = 2 if sensitivity is None else len(sensitivity)
    table = np.ones((layers, len(weights) * len(activations)))
    return Problem.from_tables(
        [f"layer{i}" for i in range(layers)],
        weight_bits=weights,
        activation_bits=activations,
        costs={"size_bytes": table},
        references={"size_bytes": 10.0},
        quality=QUALITY,
        sensitivity=sensitivity,
    )


def of_levels(features: Features) -> NDArray[np.float64]:
    """The loss of each variable alone, up to a common factor."""
    return np.asarray(np.exp(features.size[:, None] + features.fading))


def test_without_sensitivities_the_squared_error_of_a_quantizer_is_all_that_is_known() -> None:
    features = Features.of(make_toy(2, weight_bits=(2, 4, 8), activation_bits=(4, 8)).problem)
    assert not features.measured
    assert features.is_weight.tolist() == [True, False, True, False]
    assert features.fading[0] == pytest.approx(-LOG_4 * np.array([0, 2, 6]))
    assert features.fading[1] == pytest.approx(-LOG_4 * np.array([0, 4, 4]))  # two levels, the last repeated
    assert features.size == pytest.approx(0.0)  # every tensor at its role's lowest bits


def test_a_tensor_with_more_bits_to_begin_with_is_expected_to_matter_less() -> None:
    toy = make_toy(2, weight_bits=(2, 4, 8), depthwise_pairs={(4, 8), (8, 8)})
    assert Features.of(toy.problem).size == pytest.approx([0.0, -2 * LOG_4])


def test_measured_losses_are_the_size_and_the_fading() -> None:
    features = Features.of(problem([[0.4, 0.1, 0.0], [0.02, 0.01, 0.0]]))
    assert features.measured
    assert np.exp(features.size) == pytest.approx([0.4, 0.02])
    assert np.exp(features.fading[:, :2]) == pytest.approx(np.array([[1, 0.25], [1, 0.5]]))
    assert features.fading[:, 2] == pytest.approx(-2 * LOG_4 * 6)  # nothing lost: as steep as is believed


def test_losses_are_relative_to_the_highest_bits_and_alone() -> None:
    tables = [[0.5, 0.3, 0.2, 0.1], [0.9, 0.6, 0.5, 0.3]]  # (2, 4), (2, 8), (8, 4), (8, 8)
    losses = variable_losses(problem(tables, (2, 8), (4, 8)))
    assert [loss.tolist() for loss in losses] == [
        pytest.approx(loss) for loss in ([0.2, 0.0], [0.1, 0.0], [0.3, 0.0], [0.2, 0.0])
    ]


def test_a_tie_sums_the_losses_of_its_layers() -> None:
    toy = make_toy(4, tie=[("layer0", "layer2")], sensitivity=True)
    table = toy.problem.sensitivity
    assert table is not None
    losses = variable_losses(toy.problem)
    tied = next(i for i, v in enumerate(toy.problem.space.variables) if len(v.layers) == 2)
    assert losses[tied] == pytest.approx((table[0] - table[0, -1]) + (table[2] - table[2, -1]))


@pytest.mark.parametrize(
    "rows",
    [
        [[0.0, 0.0, 0.0], [0.4, 0.1, 0.0]],  # a layer that loses nothing
        [[-0.2, -0.1, 0.0], [0.4, 0.1, 0.0]],  # quantization that helps
        [[0.1, 0.4, 0.0], [0.4, 0.1, 0.2]],  # not falling, by noise
        [[0.4, 0.0, 0.1], [1e-12, 0.0, 0.0]],
        [[1e-300, 0.0, 0.0], [1e6, 1e-300, 0.0]],
    ],
)
def test_odd_measurements_still_make_losses_that_are_positive_and_fall(rows: list[list[float]]) -> None:
    features = Features.of(problem(rows))
    losses = of_levels(features)
    assert np.isfinite(features.size).all() and np.isfinite(features.fading).all()
    assert (losses > 0).all()
    assert (np.diff(losses, axis=1) <= 0).all() and (losses[:, -1] < losses[:, 0]).all()
    alone = np.array([row[0] - row[-1] for row in rows])
    assert losses[:, 0].min() >= 0.999e-3 * np.median(alone[alone > 0])


@pytest.mark.parametrize("rows", [[[0.0, 0.0, 0.0]] * 2, [[-0.1, -0.1, 0.0]] * 2])
def test_where_no_loss_is_positive_only_the_bits_are_left(rows: list[list[float]]) -> None:
    features, bits = Features.of(problem(rows)), Features.of(problem(None))
    assert features.size == pytest.approx(0.0)
    assert features.fading == pytest.approx(bits.fading)


def test_a_space_without_decisions_has_empty_tables() -> None:
    for rows in (None, [[0.1], [0.2]]):
        features = Features.of(problem(rows, weights=(8,)))
        assert features.size.shape == (0,) and features.fading.shape == (0, 1)
        assert not features.measured


def test_rows_are_continued_with_their_last_value() -> None:
    assert padded([np.array([1.0, 2.0]), np.array([3.0])]).tolist() == [[1.0, 2.0], [3.0, 3.0]]
