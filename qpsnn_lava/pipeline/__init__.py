"""The whole flow, stage by stage, into one run folder.

    config.toml -> float -> quantised -> scored, cut, fine-tuned -> network.net -> simulated, run on Lava, mapped -> report

Every stage writes its artefact whole and the next one reads it, so an interrupted run goes on where it was, and a finished one is
only read.  Nothing is printed here: what happens is told to a ``say`` callback and to ``log.jsonl``.

Each stage is a module: ``training`` with ``pruning``, ``freezing``, ``checking`` with ``simulating``, ``placing``, ``reporting``.  They
share ``folder`` (where everything lies), ``inputs`` and ``model`` (what the experiment means), ``machine`` (threads, memory, versions).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netx_export.errors import MismatchError
from qpsnn_lava.config import Experiment
from qpsnn_lava.pipeline.checking import check, compare_slayer
from qpsnn_lava.pipeline.folder import Event, RunFolder, Say, open_folder
from qpsnn_lava.pipeline.freezing import export, frozen
from qpsnn_lava.pipeline.inputs import coding_of, data_of, encoded, first, input_shape
from qpsnn_lava.pipeline.machine import set_threads, versions
from qpsnn_lava.pipeline.model import models, unpruned_model, untrained
from qpsnn_lava.pipeline.placing import place, utilisation
from qpsnn_lava.pipeline.reporting import write_report
from qpsnn_lava.pipeline.simulating import Simulated, simulated
from qpsnn_lava.pipeline.training import fit, take_over

__all__ = [
    "Event",
    "RunFolder",
    "Say",
    "Simulated",
    "check",
    "coding_of",
    "compare_slayer",
    "data_of",
    "encoded",
    "export",
    "first",
    "fit",
    "frozen",
    "input_shape",
    "models",
    "open_folder",
    "place",
    "run",
    "set_threads",
    "simulated",
    "take_over",
    "unpruned_model",
    "untrained",
    "utilisation",
    "versions",
    "write_report",
]


def run(experiment: Experiment, folder: Path, *, say: Say, command: str = "") -> dict[str, Any]:
    """Runs all stages, or what is left of them, and returns the report.

    Args:
        experiment: what to do.
        folder: the run folder; made, or gone on with where it holds the same experiment.
        say: told what happens.
        command: the command line that made it, for the report.

    Raises:
        ConfigError: when the folder holds another experiment.
        MismatchError: when SLAYER, simulation and Lava do not agree (the report is written all the same).
    """
    files = open_folder(experiment, folder)
    fit(experiment, files, say)
    export(experiment, files, say)
    check(experiment, files, say)
    place(experiment, files, say)
    made = write_report(experiment, files, say, command)
    wrong = made["agreement"]["spike_mismatches"] + made["agreement"]["voltage_mismatches"]
    if wrong:
        raise MismatchError(
            f"{wrong} values differ between SLAYER, simulation and Lava; the report in {files.path} says where."
        )
    return made
