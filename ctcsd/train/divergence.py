"""Is the loss running away? A bound that moves with the loss, and stays where it is while the loss is above it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

WARMUP = 200  # steps before the first verdict, and the memory of the level
RECENT = 20  # steps that the loss is averaged over before it is held against the bound
PATIENCE = 50  # steps above the bound before the verdict
SPREADS, RATIO = 3.0, 1.5  # the bound is that many mean deviations of a step, and at least this ratio, above the level


class LossBound:
    """The running level of one term of the loss, in the log domain, where its noise is the same at every level."""

    def __init__(self) -> None:
        self.steps, self.level, self.spread, self.recent, self.above = 0, 0.0, 0.0, 0.0, 0

    def update(self, loss: float) -> bool:
        """Take in the loss of a step; True: it has been above the bound for PATIENCE steps."""
        value = math.log(min(max(loss, 1e-6), 1e6))
        self.steps += 1
        self.recent += (value - self.recent) / min(self.steps, RECENT)
        far = self.recent > self.level + max(SPREADS * self.spread, math.log(RATIO))
        if self.steps > WARMUP and far:
            self.above += 1
        else:
            self.above = 0
            weight = 1.0 / min(self.steps, WARMUP)
            self.level += (value - self.level) * weight
            self.spread += (abs(value - self.recent) - self.spread) * weight
        return self.above >= PATIENCE

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


class Divergence:
    """A bound for each CTC term by itself, or for the distillation where there is no other.

    Their weights change over time, and the sum of the terms with them: a ramp that begins is no divergence.
    """

    def __init__(self) -> None:
        self.bounds: dict[str, LossBound] = {}

    @property
    def calm(self) -> bool:
        """No term is above its bound."""
        return all(bound.above == 0 for bound in self.bounds.values())

    def update(self, parts: Mapping[str, float]) -> str | None:
        """Take in the terms of a step, before their weights; returns what has run away, in words, if anything."""
        watched = [name for name in parts if name.startswith("ctc_")] or [name for name in parts if name == "kd"]
        for name in watched:
            bound = self.bounds.setdefault(name, LossBound())
            if bound.update(parts[name]):
                now, level = math.exp(bound.recent), math.exp(bound.level)
                return f"{name} has been far above its running level of {level:.3g} for {PATIENCE} steps, now {now:.3g}"
        return None

    def state_dict(self) -> dict[str, Any]:
        return {name: bound.state_dict() for name, bound in self.bounds.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, values in state.items():
            self.bounds.setdefault(name, LossBound()).load_state_dict(values)
