"""Tasks: a trained network, its data, and the metric that says how good it is.

Built in are ``digits``, ``digits-resnet20`` and ``text``; others are found by ``path/to/file.py:name`` or
``package.module:name``.
"""

from mobo_mpq.objectives.tasks.base import LoadedTask, Task
from mobo_mpq.objectives.tasks.loading import load_task, task_names

__all__ = ["LoadedTask", "Task", "load_task", "task_names"]
