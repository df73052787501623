"""The run folder, in which every stage leaves its artefact, and what stages tell while they work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from netx_export.atomic import write_text
from netx_export.errors import ConfigError
from qpsnn_lava import parallel
from qpsnn_lava.config import Experiment, load_experiment, to_toml


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Args:
        stage: float, quantised, prune, fine-tune, freeze, simulate, lava, map or report.
        text: one line for people.
        done, total: how far the stage is, 0 of 0 where that cannot be said.
        final: whether the line should stay on the terminal.
    """

    stage: str
    text: str
    done: int = 0
    total: int = 0
    final: bool = False


Say = Callable[[Event], None]


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def network(self) -> Path:
        return self.path / "network.net"

    @property
    def unpruned(self) -> Path:
        return self.path / "unpruned.net"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def training(self) -> Path:
        return self.path / "training.json"

    @property
    def checks(self) -> Path:
        return self.path / "checks.json"

    @property
    def mapping(self) -> Path:
        return self.path / "mapping.json"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    def phase(self, name: str) -> Path:
        """The model that a training phase ended with."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    def snapshot(self, name: str) -> Path:
        """The state of a training phase under way."""
        return self.path / "checkpoints" / f"{name}.state.safetensors"


def require(files: RunFolder, *artefacts: Path) -> None:
    """Says which stage is still to be done.

    Raises:
        ConfigError: one of the artefacts, which earlier stages leave, is not there.
    """
    for path in artefacts:
        if not path.exists():
            raise ConfigError(
                f"{files.path} has no {path.name}: its run is not that far. Go on with it: "
                f"qpsnn run {files.config} --out {files.path}"
            )


def open_folder(experiment: Experiment, folder: Path) -> RunFolder:
    """The run folder with the experiment's config.toml in it; refuses one that holds another experiment."""
    files = RunFolder(folder)
    if parallel.rank() == 0:
        _claim(experiment, files)
    parallel.wait()
    return files


def _claim(experiment: Experiment, files: RunFolder) -> None:
    if files.config.exists():
        if load_experiment(files.config) != experiment:
            raise ConfigError(
                f"{files.path} holds another experiment (its config.toml differs); choose another --out, or remove the folder."
            )
        return
    if files.path.exists() and not (files.path.is_dir() and not any(files.path.iterdir())):
        raise ConfigError(f"{files.path} is not empty and is no run folder; choose another --out.")
    write_text(files.config, to_toml(experiment))
