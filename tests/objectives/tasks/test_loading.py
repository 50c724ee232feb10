from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mobo_mpq.errors import TaskError, UnknownName
from mobo_mpq.objective import Direction, Measurement
from mobo_mpq.objectives.tasks import load_task, task_names

Write = Callable[..., Path]


def refused(address: str) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(address)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_built_in_names() -> None:
    assert task_names() == ("digits", "digits-resnet20", "text")


@pytest.mark.parametrize("name", ["Task", "made", "factory", "Better"])
def test_class_factory_and_object(write_task: Write, name: str) -> None:
    path = write_task()
    task = load_task(f"{path}:{name}")
    assert task.metric_name == "accuracy"
    assert task.direction is Direction.MAXIMIZE
    assert task.test is None
    assert task.manifest == {}
    assert task.name == ("mine" if name == "Task" else f"mine-{name}")
    assert task.address == f"{path}:{name}"


def test_address_is_absolute_so_that_workers_elsewhere_find_it(
    write_task: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_task()
    monkeypatch.chdir(path.parent)
    assert load_task("mine.py:Task").address == f"{path}:Task"
    assert load_task(load_task("mine.py:Task").address).name == "mine"


def test_module_address(write_task: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_task(name="task_module_of_a_test.py")
    monkeypatch.syspath_prepend(str(path.parent))
    task = load_task("task_module_of_a_test:made")
    assert (task.address, task.name) == ("task_module_of_a_test:made", "task_module_of_a_test-made")


def test_module_beside_the_file_is_importable(write_task: Write) -> None:
    write_task(name="helper_of_a_test.py", source="WIDTH = 2\n")
    path = write_task(("import torch\n", "import torch\nfrom helper_of_a_test import WIDTH\n"))
    assert load_task(f"{path}:Task").name == "mine"


def test_two_files_of_one_name_do_not_collide(write_task: Write, tmp_path: Path) -> None:
    first = write_task()
    (tmp_path / "other").mkdir()
    second = write_task(('"accuracy"', '"f1"'), name="other/mine.py")
    assert load_task(f"{first}:Task").metric_name == "accuracy"
    assert load_task(f"{second}:Task").metric_name == "f1"
    assert type(load_task(f"{first}:Task").source) is not type(load_task(f"{second}:Task").source)


@pytest.mark.parametrize("address", ["digit", "mine.py", ":name", "mine.py:", ""])
def test_unknown_name(address: str) -> None:
    with pytest.raises(UnknownName, match="known: digits, digits-resnet20, text.*path/to/file.py:name") as caught:
        load_task(address)
    if address == "digit":
        assert "Did you mean 'digits'?" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    assert "no file" in refused(f"{tmp_path}/gone.py:Task")


def test_file_that_raises(write_task: Write) -> None:
    path = write_task(("import torch\n", "raise RuntimeError('no such data\\nsecond line')\n"))
    message = refused(f"{path}:Task")
    assert "RuntimeError: no such data" in message
    assert "second line" not in message
    assert "SyntaxError" in refused(f"{write_task(('class Task', 'class class'))}:Task")
    assert "SystemExit" in refused(f"{write_task(('import torch', 'raise SystemExit'))}:Task")


def test_missing_module() -> None:
    assert "ModuleNotFoundError: No module named 'nowhere_at_all'" in refused("nowhere_at_all:Task")


def test_missing_object(write_task: Write) -> None:
    message = refused(f"{write_task()}:Nothing")
    assert "has no 'Nothing'; it defines Task, Better, made, factory" in message


def test_factory_that_raises(write_task: Write) -> None:
    path = write_task(("    return Task()", "    raise ValueError('no data')"))
    assert "calling factory() raised ValueError: no data" in refused(f"{path}:factory")


def test_missing_members_are_named(write_task: Write) -> None:
    path = write_task(('metric_name = "accuracy"', ""), ("def metric", "def metrics"))
    assert "task 'mine' lacks 'metric', 'metric_name'; expected" in refused(f"{path}:Task")


def test_wrong_direction(write_task: Write) -> None:
    path = write_task(('"maximize"', '"up"'))
    assert "direction 'up'; expected 'maximize' or 'minimize'" in refused(f"{path}:Task")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("def model", "model = 3\n\n    def other", "'model' of task 'mine' is 3; expected a function"),
        ("self.train = ", "self.train = 3; self.val = ", "'train' of task 'mine' is a int; expected batches"),
        ("def model", "@property\n    def test(self):\n        return 1 / 0\n\n    def model", "reading 'test'"),
        ("def model", "@property\n    def test(self):\n        return self.nothing\n\n    def model", "'nothing'"),
    ],
)
def test_unusable_members(write_task: Write, old: str, new: str, expected: str) -> None:
    assert expected in refused(f"{write_task((old, new))}:Task")


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ("return 3", "model\\(\\) of task 'mine' returned a int; expected a trained torch.nn.Module"),
        ("raise OSError('no weights')", "model\\(\\) of task 'mine' raised OSError: no weights"),
    ],
)
def test_model_that_fails(write_task: Write, new: str, expected: str) -> None:
    task = load_task(f"{write_task(('return nn.Linear(2, 2)', new))}:Task")
    with pytest.raises(TaskError, match=expected):
        task.model()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("float('nan')", "nan"),
        ("float('inf')", "inf"),
        ("'0.5'", "'0.5'"),
        ("None", "None"),
        ("[1.0, 2.0]", "\\[1.0, 2.0\\]"),
    ],
)
def test_metric_that_is_no_finite_number(write_task: Write, value: str, shown: str) -> None:
    task = load_task(f"{write_task(('return 0.5', f'return {value}'))}:Task")
    with pytest.raises(TaskError, match=f"metric 'accuracy' of task 'mine' returned {shown}; expected a finite float"):
        task.metric(task.model(), task.val)


def test_metric_that_raises(write_task: Write) -> None:
    task = load_task(f"{write_task(('return 0.5', 'return model(1)'))}:Task")
    with pytest.raises(TaskError, match="metric\\(\\) of task 'mine' raised TypeError: .*; expected the accuracy"):
        task.metric(task.model(), task.val)


def test_metric_sees_evaluation_mode_and_no_gradients(write_task: Write) -> None:
    check = "assert not model.training and not torch.is_grad_enabled()\n        return torch.tensor(0.5)"
    task = load_task(f"{write_task(('return 0.5', check))}:Task")
    model = task.model().train()
    assert task.measure(model, task.val) == Measurement(0.5)
    assert model.training


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("(0.5, 0.1)", Measurement(0.5, 0.1)),
        ("(0.5, None)", Measurement(0.5)),
        ("[torch.tensor(0.5), 0]", Measurement(0.5, 0.0)),
        ("Measurement(0.5, 0.1)", Measurement(0.5, 0.1)),
        ("0.5", "expected \\(value, standard error\\)"),
        ("(0.5, -0.1)", "expected a standard error of 0 or more"),
        ("(float('nan'), 0.1)", "returned \\(nan, 0.1\\); expected a finite float"),
        ("(0.5, float('nan'))", "expected a finite float"),
    ],
)
def test_measure(write_task: Write, returned: str, expected: Any) -> None:
    source = f"def measure(self, model, loader):\n        return {returned}\n\n    def model"
    imported = "import torch\nfrom mobo_mpq.objective import Measurement\n"
    path = write_task(("def model", source), ("import torch\n", imported))
    task = load_task(f"{path}:Task")
    if isinstance(expected, Measurement):
        assert task.measure(task.model(), task.val) == expected
    else:
        with pytest.raises(TaskError, match=expected):
            task.measure(task.model(), task.val)


def test_default_example_and_loss(write_task: Write) -> None:
    task = load_task(f"{write_task()}:Task")
    assert torch.equal(task.example, torch.arange(8.0).reshape(4, 2))  # type: ignore[arg-type]
    logits, target = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    assert task.loss(logits, target).item() == pytest.approx(torch.log(torch.tensor(2.0)).item())


def test_own_example_and_loss(write_task: Write) -> None:
    own = "example = [torch.ones(1, 2), None]\n    loss = staticmethod(lambda output, target: output)\n\n    def model"
    task = load_task(f"{write_task(('def model', own))}:Task")
    assert isinstance(task.example, tuple)
    assert task.loss("output", None) == "output"


def test_example_of_a_mapping_is_without_labels(write_task: Write) -> None:
    batches = "self.train = self.val = [{'x': torch.ones(1, 2), 'labels': torch.ones(1)}]"
    task = load_task(f"{write_task(('self.train = self.val = DataLoader(data, batch_size=4)', batches))}:Task")
    assert set(task.example) == {"x"}  # type: ignore[arg-type]


def test_own_example_keeps_its_labels(write_task: Write) -> None:
    own = "example = __import__('collections').UserDict(x=torch.ones(1, 2), labels=torch.ones(1))\n\n    def model"
    example = load_task(f"{write_task(('def model', own))}:Task").example
    assert type(example) is dict and set(example) == {"x", "labels"}


@pytest.mark.parametrize(
    ("batches", "expected"),
    [("[]", "'val' of task 'mine' is empty"), ("['text']", "first batch of 'val' of task 'mine' failed")],
)
def test_example_that_cannot_be_had(write_task: Write, batches: str, expected: str) -> None:
    path = write_task(("self.train = self.val = DataLoader(data, batch_size=4)", f"self.train = self.val = {batches}"))
    with pytest.raises(TaskError, match=expected):
        _ = load_task(f"{path}:Task").example
