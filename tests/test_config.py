from __future__ import annotations

from pathlib import Path

import pytest

from mobo_mpq.config import StudyConfig
from mobo_mpq.errors import InputError

PRESETS = Path(__file__).parent.parent / "workflows" / "presets"


def test_a_study_file_survives_the_way_through_toml(tmp_path: Path) -> None:
    config = StudyConfig.parse(
        {
            "name": "x",
            "trials": 3,
            "pin": ["a=8/4"],
            "tie": ["a,b"],
            "budget": ["latency_ms<=2"],
            "epochs": 0.5,
            "strategy_options": {"drop": 0.01, "search": "binary"},
        }
    )
    path = tmp_path / "study.toml"
    path.write_text(config.to_toml())
    assert StudyConfig.parse(StudyConfig.read(path)) == config


def test_every_preset_is_valid() -> None:
    presets = sorted(PRESETS.glob("*.toml"))
    assert presets
    for preset in presets:
        assert StudyConfig.parse(StudyConfig.read(preset)).task


def test_the_default_preset_is_the_default() -> None:
    assert StudyConfig.parse(StudyConfig.read(PRESETS / "digits-mpic.toml")) == StudyConfig()


def test_what_flags_mean() -> None:
    config = StudyConfig.parse(
        {"pin": ["net.conv=8/4"], "tie": ["a, b,c"], "budget": ["latency_ms <= 2.5", "size_kib<=4"]}
    )
    assert config.pins == {"net.conv": (8, 4)}
    assert config.ties == [("a", "b", "c")]
    assert config.budgets == {"latency_s": 2.5e-3, "size_bytes": 4096.0}
    assert config.as_written("latency_s") == ("latency_ms", 1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trials": 0}, r"--trials is 0: input should be greater than or equal to 1"),
        ({"trials": -3}, r"--trials is -3: input should be greater"),
        ({"trials": "many"}, r"--trials is 'many': input should be a valid integer"),
        ({"seed": -1}, r"--seed is -1"),
        ({"weight_bits": []}, r"--weight-bits is \[\]: expected at least one"),
        ({"weight_bits": [4, 4]}, r"--weight-bits is \[4, 4\]: expected each one once"),
        ({"activation_bits": [0]}, r"--activation-bits is 0"),
        ({"name": "../x"}, r"--name is '../x': expected letters, digits"),
        ({"epochs": 0}, r"--epochs is 0"),
        ({"schema": 2}, r"--schema is 2: this version reads schema 1"),
        ({"trails": 3}, r"unknown setting --trails; known ones are .*trials"),
        ({"pin": ["a"]}, r"pin 'a' is not understood; expected LAYER=W/A"),
        ({"tie": ["a"]}, r"tie 'a' names fewer than two layers"),
        ({"budget": ["speed<=3"]}, r"budget 'speed<=3' is not understood; expected NAME<=NUMBER"),
        ({"budget": ["latency_ms<=fast"]}, r"budget 'latency_ms<=fast' is not understood"),
        ({"budget": ["latency_ms<=-1"]}, r"budget 'latency_ms<=-1' is not understood"),
        ({"budget": ["size_bytes<=1", "size_kb<=1000"]}, r"budget 'size_kb<=1000' is one of two on size_bytes"),
        ({"pin": ["a=8/8", "a=2/2"]}, r"layer 'a' is pinned to different bits"),
        ({"budget": ["latency_ms=3"]}, r"budget 'latency_ms=3' is not understood"),
    ],
)
def test_bad_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StudyConfig.parse(values)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the study file .*nowhere.toml: No such file"):
        StudyConfig.read(tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("trials = = 3")
    with pytest.raises(InputError, match=r"broken.toml is not TOML"):
        StudyConfig.read(broken)
    broken.write_bytes(b"name = '\xff'")
    with pytest.raises(InputError, match=r"broken.toml is not TOML"):
        StudyConfig.read(broken)
    broken.write_text("trials = 0")
    with pytest.raises(InputError, match=r"'trials' in .*broken.toml is 0"):
        StudyConfig.parse(StudyConfig.read(broken), source=str(broken))
