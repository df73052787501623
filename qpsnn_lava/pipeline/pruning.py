"""The prune stage: which channels stay after a round, by their scores and what the experiment leaves them."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mapping
from netx_export import engine
from netx_export.network import Network
from qpsnn_lava import prune, width_plan
from qpsnn_lava.config import Experiment
from qpsnn_lava.criteria import WITHOUT_IMAGES
from qpsnn_lava.data import Dataset
from qpsnn_lava.model import SpikingNetwork, block_names, set_quantised
from qpsnn_lava.pipeline.folder import Event, Say
from qpsnn_lava.pipeline.freezing import frozen
from qpsnn_lava.pipeline.inputs import coding_of, encoded, first
from qpsnn_lava.pipeline.model import cut, kept_in


def scored(
    experiment: Experiment,
    model: SpikingNetwork,
    dataset: Dataset,
    number: int,
    before: Mapping[str, Any] | None,
    say: Say,
) -> tuple[dict[str, Any], str]:
    """Scores a model that earlier rounds have cut, and says which channels stay (as they were numbered at first), and a line for people.

    Args:
        experiment: how to score, and how much stays.
        model: as the round before left it.
        dataset: scored on, where the criterion takes images.
        number: of the round, from 1.
        before: what this function returned in the round before; None in the first.
        say: told what happens.

    Returns:
        an entry of training.json, and the line.
    """
    start, settled = time.perf_counter(), experiment.prune
    scores, peak_bytes = _scores(experiment, model, dataset, say)
    scoring_seconds = time.perf_counter() - start
    alive = {i: np.arange(len(s.value)) for i, s in scores.items()} if before is None else kept_in(before)
    table = _score_table(scores, alive, {} if before is None else before["scores"])
    whole = {i: len(table[str(i)]["rank"]) for i in scores}
    counts, rounded, plan = channels_to_keep(experiment, model, dataset, scores, whole, number)
    kept = prune.choose(scores, counts, tie_break=settled.tie_break)
    entry = {
        "seconds": time.perf_counter() - start,
        "kept": {str(i): alive[i][k].tolist() for i, k in kept.items()},
        "scores": {i: {key: values.tolist() for key, values in row.items()} for i, row in table.items()},
        "widths": [asdict(choice) for choice in rounded],
        "plan": None if plan is None else plan.to_dict(),
        "scoring": {
            "criterion": settled.criterion,
            "samples": next((s.samples for s in scores.values()), 0),
            "seconds": scoring_seconds,
            "criterion_seconds": {str(i): s.seconds for i, s in scores.items()},
            "peak_bytes": peak_bytes,
            "stability": {str(i): s.stability for i, s in scores.items()},
        },
    }
    return entry, _line(scores, kept, rounded)


def cut_on(
    experiment: Experiment,
    model: SpikingNetwork,
    dataset: Dataset,
    entry: Mapping[str, Any],
    before: Mapping[str, Any] | None,
) -> SpikingNetwork:
    """What a round leaves of the model that the round before left; ``entry`` and ``before`` as :func:`scored` has them."""
    kept = kept_in(entry)
    if before is not None:
        alive = kept_in(before)
        kept = {i: np.searchsorted(alive[i], channels) for i, channels in kept.items()}
    return cut(experiment, model, kept, dataset)


def _scores(
    experiment: Experiment, model: SpikingNetwork, dataset: Dataset, say: Say
) -> tuple[dict[int, prune.Scores], int | None]:
    """By block, and the bytes that scoring took at its peak, where that is known."""
    settled = experiment.prune
    images = "" if settled.criterion in WITHOUT_IMAGES else f" on {settled.samples} training images"
    say(Event("prune", f"scoring channels{images}"))
    return prune.with_peak(
        lambda: prune.score(
            model,
            dataset,
            coding_of(experiment),
            samples=settled.samples,
            eps=settled.eps,
            seed=experiment.seed,
            criterion=settled.criterion,
            relative=settled.eps_relative,
            nuclear=settled.tie_break == "nuclear",
        )
    )


def _score_table(
    scores: Mapping[int, prune.Scores], alive: Mapping[int, NDArray[np.int64]], known: Mapping[str, Any]
) -> dict[str, dict[str, NDArray[Any]]]:
    """Scores of all channels that there were at first; of one that is gone: ``known``, when it was last there."""
    table = {}
    for i, s in scores.items():
        row = known.get(str(i), {"rank": s.value, "nuclear": s.nuclear})
        table[str(i)] = {"rank": np.array(row["rank"]), "nuclear": np.array(row["nuclear"])}
        table[str(i)]["rank"][alive[i]], table[str(i)]["nuclear"][alive[i]] = s.value, s.nuclear
    return table


def _line(
    scores: Mapping[int, prune.Scores],
    kept: Mapping[int, NDArray[np.int64]],
    rounded: tuple[mapping.WidthChoice, ...],
) -> str:
    line = "channels kept: " + ", ".join(f"{len(kept[i])} of {len(s.value)}" for i, s in scores.items())
    asked = ", ".join(str(choice.asked) for choice in rounded if choice.why != mapping.widths.NOT_PRUNED)
    return f"{line} (good widths; asked: {asked})" if asked else line


# --- how many ----------------------------------------------------------------------------------------------------------


def channels_to_keep(
    experiment: Experiment,
    model: SpikingNetwork,
    dataset: Dataset,
    scores: dict[int, prune.Scores],
    whole: dict[int, int],
    number: int,
) -> tuple[dict[int, int], tuple[mapping.WidthChoice, ...], width_plan.WidthPlan | None]:
    """How many channels of each block stay after a round, and how that was rounded for the chip, or planned under a budget.

    The share that stays after round r of n is ``keep ** (r / n)``; a budget is approached by equal factors.  What a layer costs is
    counted from the model's own integers before the cut.

    Args:
        experiment: share, budget, chip.
        model: as the round before left it.
        dataset: for the operations under a budget of them.
        scores: of the model's blocks.
        whole: channels of each block before the first round.
        number: of the round, from 1.

    Raises:
        CapacityError: the network would not fit the chip with the widths that the share leaves.
        ConfigError: a budget that no widths keep.
    """
    settled = experiment.prune
    names = block_names(model)
    if settled.keep is None:
        plan = _within_budget(experiment, model, dataset, {names[i]: s.value for i, s in scores.items()}, number)
        blocks = {name: i for i, name in names.items()}
        return {blocks[name]: width for name, width in plan.widths.items()}, (), plan
    part = number / settled.rounds
    keep = tuple(k**part for k in settled.keep) if isinstance(settled.keep, tuple) else settled.keep**part
    counts = prune.keep_counts(scores, keep, settled.scope, settled.tie_break, whole)
    if settled.widths == "any" or number < settled.rounds:
        return counts, (), None
    layers = mapping.plan_layers(_integers(experiment, model, dataset))
    chip = mapping.load_chip(experiment.map.chip)
    chosen = mapping.choose_widths(layers, chip, {names[i]: count for i, count in counts.items()})
    taken = {choice.name: choice.taken for choice in chosen}
    return {i: taken[names[i]] for i in counts}, chosen, None


def _within_budget(
    experiment: Experiment,
    model: SpikingNetwork,
    dataset: Dataset,
    scores: dict[str, NDArray[np.float64]],
    number: int,
) -> width_plan.WidthPlan:
    """Widths by population whose costs come a round closer to the budget."""
    budget = experiment.prune.budget
    assert budget is not None
    network = _integers(experiment, model, dataset)
    operations = None
    if budget[0] == "ops":
        images = first(dataset.train, experiment.prune.samples)
        summary = engine.summarise(network, encoded(images, dataset, coding_of(experiment), experiment.seed))
        operations = {key.split(" -> ")[1]: total / summary.samples for key, total in summary.operations.items()}
    return width_plan.plan_widths(
        network,
        scores,
        budget[1],
        budget[0],
        mapping.load_chip(experiment.map.chip),
        operations,
        part=1 / (experiment.prune.rounds - number + 1),
    )


def _integers(experiment: Experiment, model: SpikingNetwork, dataset: Dataset) -> Network:
    """The model as the chip would have it, also where it still is in float (order "pq")."""
    copied = copy.deepcopy(model)
    set_quantised(copied, True)
    return frozen(experiment, copied, dataset)
