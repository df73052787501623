"""How sure a measured accuracy is, and a difference between two."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from netx_export.errors import ConfigError

Z95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its 95 % interval.

    Args:
        value: 0..1.
        n: number of samples.
        interval: the 95 % Wilson interval (low, high), 0..1.
    """

    value: float
    n: int
    interval: tuple[float, float]

    @classmethod
    def of(cls, correct: int, n: int) -> Accuracy:
        """``correct`` right answers of ``n``.

        Raises:
            ConfigError: where n is below 1 or ``correct`` not in 0..n.
        """
        low, high = wilson_interval(correct, n)
        return cls(int(correct) / int(n), int(n), (low, high))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.2f} % (n = {self.n}, 95 % {100 * low:.1f}..{100 * high:.1f})"

    def to_dict(self) -> dict[str, float | int | list[float]]:
        """As report.json holds it: ``{"value", "n", "interval": [low, high]}``."""
        return {"value": self.value, "n": self.n, "interval": list(self.interval)}


def wilson_interval(correct: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share p = correct / n::

        (p + z^2/(2n) -+ z sqrt(p (1 - p)/n + z^2/(4 n^2))) / (1 + z^2/n)

    These are the two shares P at which |p - P| is exactly z standard errors sqrt(P (1 - P)/n).

    Args:
        correct: 0..n.
        n: at least 1.
        z: standard deviations; 1.96 for 95 %.

    Raises:
        ConfigError: where n is below 1 or ``correct`` not in 0..n.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if n < 1:
        raise ConfigError(f"an accuracy over {n} samples; at least 1 is needed.")
    if not 0 <= correct <= n:
        raise ConfigError(f"{correct} right answers of {n}; they must be in 0..{n}.")
    p = correct / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + side * half) / (1 + z * z / n) for side in (-1, 1))
    return (0.0 if correct == 0 else min(low, p), 1.0 if correct == n else max(high, p))


@dataclass(frozen=True)
class Difference:
    """What one setting is above another, over runs that are paired (by their seed).

    Args:
        value: mean difference, in the unit of what was compared.
        n: pairs.
        interval: the 95 % interval (low, high) of the mean; None for one pair.
    """

    value: float
    n: int
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """ "higher" or "lower" where the interval lies on one side of 0, else "open": no difference was shown."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "higher" if self.interval[0] > 0 else "lower"


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """The mean of n paired differences d with its 95 % t interval::

        mean(d) -+ t_(n-1, 0.975) s / sqrt(n)      s^2 = sum (d - mean(d))^2 / (n - 1)

    It holds where the differences of the pairs are independent and about normal.

    Args:
        ours, theirs: n numbers each, at least 1; the i-th ones are a pair.

    Raises:
        ConfigError: for no pairs, or lists of different length.

    Source: Student, Biometrika 6 (1908) 1.
    """
    from scipy.special import stdtrit

    if not ours or len(ours) != len(theirs):
        raise ConfigError(f"{len(ours)} numbers against {len(theirs)}; a paired difference needs equally many, at least 1.")
    each = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(each)
    if len(each) == 1:
        return Difference(mean, 1, None)
    half = float(stdtrit(len(each) - 1, 0.975)) * statistics.stdev(each) / math.sqrt(len(each))
    return Difference(mean, len(each), (mean - half, mean + half))
