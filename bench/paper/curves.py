"""How the losses of several seeds are shown: as curves, and as a figure in a table."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from .training import Training

POINTS = 160  # of a curve: each is the mean of the steps since the one before


def draw(axes: Axes, trainings: Sequence[Training], label: str) -> str:
    """The mean over the seeds as a line, their range as a band. Returns the colour."""
    window = max(1, len(trainings[0].losses) // POINTS)
    curves = np.concatenate([each.means(window) for each in trainings], axis=1)
    steps = window * np.arange(1, len(curves) + 1)
    (line,) = axes.plot(steps, curves.mean(1), label=label)
    axes.fill_between(steps, curves.min(1), curves.max(1), color=line.get_color(), alpha=0.25, linewidth=0)
    return line.get_color()


def spread(values: np.ndarray, digits: int) -> str:
    """Mean over the seeds and, if they are several, the standard deviation."""
    deviation = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}"
