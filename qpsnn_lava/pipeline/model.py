"""The models of a run: fresh from the experiment, and as the training phases left them in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qpsnn_lava import checkpoint, prune
from qpsnn_lava.config import Experiment
from qpsnn_lava.data import Dataset
from qpsnn_lava.model import SpikingNetwork, build, set_bits, set_quantised
from qpsnn_lava.pipeline.folder import RunFolder, require
from qpsnn_lava.pipeline.inputs import coding_of, data_of, input_shape


def untrained(experiment: Experiment, dataset: Dataset) -> SpikingNetwork:
    """The experiment's network for its data, with fresh weights from torch's global generator."""
    coding = coding_of(experiment)
    return build(experiment, input_shape(coding, dataset), dataset.classes, coding.input_max)


def models(experiment: Experiment, files: RunFolder) -> dict[str, SpikingNetwork]:
    """The trained models of a run: float, quantised, pruned (cut, before fine-tuning) and final.

    Raises:
        ConfigError: the run is not trained to its end.
    """
    require(files, files.training, files.model)
    done = checkpoint.load_json(files.training)
    dataset = data_of(experiment)
    plain, quantised = unpruned_model(experiment, files, dataset, "float"), unpruned_model(experiment, files, dataset)
    kept = kept_in(done["prune"])
    small, final = (cut(experiment, quantised, kept, dataset) for _ in range(2))
    checkpoint.load_model(final, files.model)
    return {"float": plain, "quantised": quantised, "pruned": small, "final": final}


def unpruned_model(
    experiment: Experiment, files: RunFolder, dataset: Dataset, phase: Literal["float", "quantised"] = "quantised"
) -> SpikingNetwork:
    """The model that a training phase before the cut ended with."""
    model = untrained(experiment, dataset)
    checkpoint.load_model(model, files.phase(phase))
    if phase == "quantised":
        set_quantised(model, True)
        set_bits(model, bits_in(checkpoint.load_json(files.training)))
    return model


def cut(
    experiment: Experiment, model: SpikingNetwork, kept: Mapping[int, NDArray[np.int64]], dataset: Dataset
) -> SpikingNetwork:
    """A new model with only these channels of its blocks."""
    small = prune.cut(model, kept, input_shape(coding_of(experiment), dataset))
    assert isinstance(small, SpikingNetwork)
    return small


# --- what training.json says -------------------------------------------------------------------------------------------


def bits_in(training: Mapping[str, Any]) -> dict[str, int]:
    """The bits that were chosen, by layer; none where the experiment says them."""
    return dict(training.get("bits", {}).get("bits", {}))


def kept_in(entry: Mapping[str, Any]) -> dict[int, NDArray[np.int64]]:
    """The channels that stay after a cut, by block, as they were numbered before the first."""
    return {int(i): np.asarray(channels, np.int64) for i, channels in entry["kept"].items()}
