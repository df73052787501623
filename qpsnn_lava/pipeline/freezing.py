"""The freeze stage: trained models into integer networks."""

from __future__ import annotations

from netx_export import hdf5
from netx_export.network import Network
from qpsnn_lava.config import Experiment
from qpsnn_lava.data import Dataset
from qpsnn_lava.freeze import freeze
from qpsnn_lava.model import SpikingNetwork
from qpsnn_lava.pipeline.folder import Event, RunFolder, Say
from qpsnn_lava.pipeline.inputs import coding_of, data_of, input_shape
from qpsnn_lava.pipeline.model import models


def export(experiment: Experiment, files: RunFolder, say: Say) -> None:
    """Freezes the final and the unpruned quantised model into network.net and unpruned.net."""
    if files.network.exists() and files.unpruned.exists():
        return
    made, dataset = models(experiment, files), data_of(experiment)
    for name, path in (("quantised", files.unpruned), ("final", files.network)):
        network = frozen(experiment, made[name], dataset)
        hdf5.write(network, path)
    weights = sum(p.synapse.weight.size for p in network.projections)
    say(Event("freeze", f"{weights} integer weights in {len(network.projections)} layers -> {files.network}", final=True))


def frozen(experiment: Experiment, model: SpikingNetwork, dataset: Dataset) -> Network:
    """The integers of a quantised model of the experiment."""
    coding = coding_of(experiment)
    return freeze(model, input_shape(coding, dataset), coding.steps, input_bits=coding.graded_bits)
