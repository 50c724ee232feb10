"""One Ray Tune trial is one policy, evaluated by an actor that lives as long as the study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from ray import tune

if TYPE_CHECKING:
    from mobo_mpq.workflows.evaluation import Evaluator, Work


class PolicyTrainable(tune.Trainable):
    """Evaluates one policy per trial; Tune reuses the actor, so network and data are loaded once.

    A class with ``reuse_actors`` costs a tenth of the overhead of a function trainable.

    Torch, network and data are loaded by the first trial, not by the actor's start: as long as an actor starts, Tune
    hands its trial to any other one that gets free, and ends the one that starts. If starting took longer than a
    trial, a search would never get a second worker.
    """

    def setup(self, config: dict[str, Any], work: Work, mailbox: Any) -> None:
        """Take the first policy."""
        self.work, self.mailbox, self.assignment = work, mailbox, config
        self._evaluator: Evaluator | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next policy; nothing else depends on the configuration."""
        self.assignment = new_config
        return True

    @property
    def evaluator(self) -> Evaluator:
        """Network and data, loaded once per actor."""
        if self._evaluator is None:
            import torch

            from mobo_mpq.workflows.evaluation import Evaluator

            torch.set_num_threads(1)  # several actors with several threads each are slower than one after another
            self._evaluator = Evaluator(self.work)
        return self._evaluator

    def step(self) -> dict[str, Any]:
        """Evaluate the policy; the network travels by the mailbox, since Tune writes results to disk."""
        from mobo_mpq.journal import measurement_to_list
        from mobo_mpq.policy import Policy
        from mobo_mpq.trial import Recipe
        from mobo_mpq.workflows.searcher import listed

        bits, recipe, learner = (self.assignment[key] for key in ("policy", "recipe", "learner"))
        outcome = self.evaluator.run(
            Policy.of(dict(bits)) if bits else None,
            seed=self.assignment["seed"],
            recipe=Recipe(**recipe) if recipe else None,
            learner=Recipe(**learner) if learner else None,
            bar=self.assignment["bar"],
        )
        result: dict[str, Any] = {"done": True, "seconds": outcome.seconds, "cpu_s": outcome.cpu_s}
        result["details"] = list(outcome.details.items())  # Tune takes mappings apart
        if outcome.policy is not None:
            result["policy"] = listed(outcome.policy)
        if outcome.early is not None:
            result["early"] = measurement_to_list(outcome.early)
        if outcome.measurement is None:
            return {**result, "error": outcome.error, "pruned": outcome.pruned}
        ray.get(self.mailbox.put.remote(self.assignment["number"], outcome.state))
        return {**result, "measured": measurement_to_list(outcome.measurement)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the journal is the state. Tune fails trials of a class without this method."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


class Mailbox:
    """Holds the networks of finished trials until the driver has decided whether they join the front."""

    def __init__(self) -> None:
        self._states: dict[int, bytes] = {}

    def put(self, number: int, state: bytes) -> None:
        """Leave a network."""
        self._states[number] = state

    def take(self, number: int) -> bytes | None:
        """Fetch a network, and forget it."""
        return self._states.pop(number, None)
