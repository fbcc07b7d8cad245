"""A measured number and the error it carries."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Reading:
    """value ± err, in `unit`; `how` says what produced it (estimator, sample sizes, flags).

    `value` is a float or an array (a curve, a score per head); `err` then has the same shape.
    None stands for what could not be measured, and can only be judged "outside".
    `err` is one standard error (or a proven bound, where the observable's docstring says so).
    """

    value: Any
    err: Any = 0.0
    unit: str = ""
    how: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.value is None:
            return "not measured"
        if np.ndim(self.value):
            v = np.asarray(self.value)
            return f"array{v.shape} from {v.min():.4g} to {v.max():.4g} {self.unit}".rstrip()
        return f"{float(self.value):.4g} ± {float(self.err):.2g} {self.unit}".rstrip()


def pool(readings: Sequence[Reading]) -> Reading:
    """Mean of scalar readings taken along one run; its err is their spread, for they are not independent.

        value = mean(xᵢ)      err² = var(xᵢ) + max(errᵢ)²

    >>> pool([Reading(1.0, 0.0), Reading(3.0, 0.0)])
    Reading(value=2.0, err=1.4142135623730951, unit='', how={'pooled': 2})
    """
    if not readings:
        from strobe.core.errors import BadOption

        raise BadOption("pool needs at least one reading, got none: was the observable measured at all?")
    values = np.array([float(r.value) for r in readings])
    worst = max(float(r.err) for r in readings)
    spread = values.var(ddof=1) if len(values) > 1 else 0.0
    return Reading(float(values.mean()), float(np.sqrt(spread + worst**2)), readings[0].unit, {"pooled": len(values)})
