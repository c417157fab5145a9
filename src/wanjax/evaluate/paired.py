"""A variant against a rival on the same videos: how far apart they are, and whether by chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """Differences of a metric, variant minus rival, video by video.

    `interval` holds the mean difference with 95 % confidence, by Student's t; None for a single
    video. In `closer` videos the variant is nearer to the reference than the rival, in
    `farther` it is less near. `sign_p` is the two-sided sign test's: how often chance alone,
    with either as likely to be nearer, would come out so one-sided or more so.
    """

    difference: float
    interval: tuple[float, float] | None
    closer: int
    tied: int
    farther: int
    sign_p: float

    @property
    def decided(self) -> bool:
        """Whether the interval has no zero in it."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def paired(
    ours: Sequence[float], theirs: Sequence[float], worst: Callable[[Iterable[float]], float]
) -> Paired:
    """The values of a variant and of its rival, in the order of the same videos.

    `worst` is `min` where more is nearer to the reference, `max` where less is. The videos
    count as independent, which seeds of one prompt are not wholly.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    sense = 1 if worst is min else -1
    closer = sum(sense * difference > 0 for difference in differences)
    farther = sum(sense * difference < 0 for difference in differences)
    decisive = closer + farther
    p = float(stats.binomtest(closer, decisive).pvalue) if decisive else 1.0
    tied = len(differences) - decisive
    return Paired(fmean(differences), interval(differences), closer, tied, farther, p)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The mean and, to either side, t standard errors; None for a single value."""
    count = len(values)
    if count < 2:
        return None
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    reach *= stdev(values) / math.sqrt(count)
    middle = fmean(values)
    return middle - reach, middle + reach
