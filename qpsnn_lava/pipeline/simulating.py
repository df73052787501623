"""An integer network on a whole split, by the exact simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netx_export import engine
from netx_export.network import Network
from netx_export.simulate import decide_scores
from qpsnn_lava.config import Experiment
from qpsnn_lava.data import Dataset, Split
from qpsnn_lava.pipeline.inputs import coding_of, encoded
from qpsnn_lava.statistics import Accuracy


@dataclass(frozen=True)
class Simulated:
    """What an integer network made of a split.

    Args:
        accuracy: share of right answers.
        ties: samples of which several classes have the best score.
        summary: the run, reduced to counts.
    """

    accuracy: Accuracy
    ties: int
    summary: engine.Summary

    @property
    def synaptic_ops(self) -> float:
        """Synaptic operations per sample."""
        return sum(self.summary.operations.values()) / self.summary.samples


def simulated(
    experiment: Experiment,
    network: Network,
    dataset: Dataset,
    part: Split,
    progress: Callable[[int], None] | None = None,
) -> Simulated:
    """Runs ``network`` over a split of the experiment's data; ``progress`` is told how many samples are done."""
    spikes = encoded(part, dataset, coding_of(experiment), experiment.seed)
    summary = engine.summarise(network, spikes, progress=progress)
    classes, tied = decide_scores(engine.scores(network, summary))
    accuracy = Accuracy.of(int((classes == part.labels).sum()), len(part.labels))
    return Simulated(accuracy, int((tied > 1).sum()), summary)
