"""What goes into the network: the experiment's data, and how they become spikes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qpsnn_lava.coding import Coding, encode
from qpsnn_lava.config import Experiment
from qpsnn_lava.data import Dataset, Split, load

CHUNK = 256  # samples that are compared or simulated at a time


def coding_of(experiment: Experiment) -> Coding:
    """How the experiment's images become spikes."""
    return Coding(experiment.data.coding, experiment.data.steps, experiment.data.input_bits)


def data_of(experiment: Experiment) -> Dataset:
    """The experiment's data set."""
    folder = Path(experiment.data.folder) if experiment.data.folder else None
    data = experiment.data
    return load(data.name, folder=folder, seed=experiment.seed, steps=data.steps, train_images=data.train_images)


def input_shape(coding: Coding, dataset: Dataset) -> tuple[int, int, int]:
    """(C, H, W) of the network's input for this data."""
    return coding.input_shape(dataset.train.images.shape[1:])


def first(part: Split, count: int) -> Split:
    """The first ``count`` samples of a split."""
    return Split(part.images[:count], part.labels[:count], part.indices[:count])


def chunks(part: Split) -> Iterator[Split]:
    """A split in pieces of ``CHUNK`` samples, in order."""
    for low in range(0, len(part), CHUNK):
        piece = slice(low, low + CHUNK)
        yield Split(part.images[piece], part.labels[piece], part.indices[piece])


def spikes_of(part: Split, dataset: Dataset, coding: Coding, seed: int) -> NDArray[np.uint8]:
    """(N, C, H, W, T), the network's input for all samples of a split."""
    return encode(part.images, coding, max_value=dataset.max_value, seed=seed, indices=part.indices)


def encoded(part: Split, dataset: Dataset, coding: Coding, seed: int) -> Iterator[NDArray[np.uint8]]:
    """The network's input for a split, chunk by chunk."""
    return (spikes_of(piece, dataset, coding, seed) for piece in chunks(part))
