from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle, StepPatch

from netx_export.errors import FormatError, RunError
from netx_export.network import MAX_THRESHOLD, Conv, Dense, Integrator, Lif, Network, Population, Projection
from qpsnn_lava import plots

HOSTILE = "a $\\frac{ \\ $ <b>&\n\t\x1b[31m \N{BRAIN} \u202e" + "x" * 300


def network(names: tuple[str, ...] = ("conv1", "conv2", "dense")) -> Network:
    rng = np.random.default_rng(0)
    first, second, last = names
    lif = Lif(1024, 512, 96)
    return Network(
        (
            Population("input", (1, 6, 6)),
            Population(first, (4, 6, 6), lif),
            Population(second, (6, 3, 3), lif),
            Population(last, (10,), Integrator()),
        ),
        (
            Projection("input", first, Conv(rng.integers(-7, 8, (4, 1, 3, 3)), padding=(1, 1))),
            Projection(first, second, Conv(8 * rng.integers(-3, 4, (6, 4, 3, 3)), (2, 2), (1, 1))),
            Projection(second, last, Dense(rng.integers(-127, 128, (10, 54)))),
        ),
    )


def report(names: tuple[str, ...] = ("conv1", "conv2", "dense")) -> dict[str, Any]:
    def row(name: str, threshold: int | None, rate: float | None, cores: int, words: int) -> dict[str, Any]:
        return {"name": name, "threshold": threshold, "firing_rate": rate, "cores": cores, "synapse_words": words}

    first, second, last = names
    return {
        "layers": [
            row("input", None, None, 0, 0),
            row(first, 96, 0.171, 1, 144),
            row(second, 96, 0.003, 2, 720),
            row(last, MAX_THRESHOLD, 0.0, 1, 1280),
        ],
        "mapping": {"chip": "loihi2"},
        "unpruned": {
            "cores": 9,
            "synapse_words": 7171,
            "layers": [
                {"name": first, "cores": 1, "synapse_words": 321},
                {"name": second, "cores": 6, "synapse_words": 3850},
                {"name": last, "cores": 2, "synapse_words": 3000},
            ],
        },
    }


SCORES = {
    "conv1": {"rank": [1.0, 4.0, 2.0, 3.0], "nuclear": [1.0, 9.0, 2.0, 3.0], "kept": [1, 3]},
    "conv2": {"rank": [2.0, 2.0, 2.0, 1.0], "nuclear": [1.0, 3.0, 2.0, 9.0], "kept": [1, 2]},
}


def heights(axes: Axes) -> list[list[float]]:
    """Values of the step bars of a panel, one list per series."""
    return [list(p.get_data().values) for p in axes.patches if isinstance(p, StepPatch)]


def texts(figure: Figure) -> str:
    """All that is written in the figure."""
    figure.draw_without_rendering()
    return "\n".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def bars(axes: Axes) -> list[float]:
    return [p.get_width() for p in axes.patches if isinstance(p, Rectangle) and p.get_height() < 1]


# --- weights


def test_bar_heights_sum_to_the_number_of_weights_and_stand_on_the_grid() -> None:
    net = network()
    figure = plots.weights_figure(net)
    assert figure is not None
    for axes, projection in zip(figure.axes, net.projections, strict=True):
        weight = projection.synapse.weight
        (values,) = heights(axes)
        assert sum(values) == weight.size
        levels, _, exponent = plots.weight_levels(weight)
        for level, count in zip(levels, values[::2], strict=True):
            assert count == (weight == level * 2**exponent).sum()
    text = texts(figure)
    assert "4 bit, 36 weights" in text and "8 bit, 540 weights" in text
    assert "weight, in units of $2^{3}$" in text


@given(
    arrays(np.int32, array_shapes(max_dims=4, max_side=4), elements=st.integers(-127, 127)),
    st.integers(0, 8),
)
def test_levels_rebuild_the_sorted_weights(weight: np.ndarray[Any, Any], shift: int) -> None:
    shifted = weight << shift
    levels, counts, exponent = plots.weight_levels(shifted)
    assert np.array_equal(np.repeat(levels, counts) << exponent, np.sort(shifted, axis=None))
    assert exponent >= shift or not weight.any()
    assert not weight.any() or any(level % 2 for level in np.repeat(levels, counts))  # no coarser grid holds them


def test_weights_no_chip_holds_are_put_into_few_bins() -> None:
    weight = np.array([-(2**31), 2**31 - 1, 0, 1, 5], np.int32)
    levels, counts, exponent = plots.weight_levels(weight)
    assert len(levels) <= plots.MAX_LEVELS and counts.sum() == 5 and exponent == 0
    assert len(set(np.diff(levels))) == 1
    assert levels[0] == -(2**31) and levels[-1] <= 2**31 - 1 < levels[-1] + levels[1] - levels[0]


@pytest.mark.parametrize("weight", [[[0, 0]], [[64, 64]], [[-(2**31), 2**31 - 1]]])
def test_odd_layers_are_drawn(weight: list[list[int]], tmp_path: Path) -> None:
    net = Network(
        (Population("input", (2,)), Population("odd", (1,), Lif(4096, 0, 1))), (Projection("input", "odd", Dense(weight)),)
    )
    figure = plots.weights_figure(net)
    assert figure is not None and sum(heights(figure.axes[0])[0]) == 2
    figure.savefig(tmp_path / "odd.png")


def test_two_projections_into_one_population_are_told_apart() -> None:
    net = network()
    skip = Projection("conv1", "dense", Dense(np.ones((10, 144), int)))
    figure = plots.weights_figure(Network(net.populations, (*net.projections, skip)))
    assert figure is not None
    assert "conv1 > dense" in texts(figure) and "conv2 > dense" in texts(figure)


# --- firing


def test_firing_rates_are_in_percent_and_odd_ones_marked() -> None:
    figure = plots.firing_figure(report())
    assert figure is not None
    assert bars(figure.axes[0]) == pytest.approx([17.1, 0.3])  # neither the input nor the layer that reads v
    colours = [to_hex(p.get_facecolor()) for p in figure.axes[0].patches if p.get_height() < 1]
    assert [c.upper() for c in colours] == [plots.BLUE, plots.VERMILLION]
    text = texts(figure)
    assert "17.1 %" in text and "0.3 %, nearly silent" in text and "1 of 2 outside the shaded band" in text


@pytest.mark.parametrize(("rate", "note"), [(0.02, ""), (0.8, ""), (0.0199, "nearly silent"), (0.81, "nearly saturated")])
def test_the_band_ends_at_2_and_80_percent(rate: float, note: str) -> None:
    data = report()
    data["layers"][1]["firing_rate"], data["layers"][2]["firing_rate"] = rate, 0.5
    figure = plots.firing_figure(data)
    assert figure is not None
    assert ("outside" in texts(figure)) is bool(note)
    assert note in texts(figure)


# --- cores


def test_cores_and_words_before_and_after() -> None:
    figure = plots.cores_figure(report())
    assert figure is not None
    cores, words = figure.axes
    assert bars(cores) == [1, 6, 2, 1, 2, 1]
    assert bars(words) == [321, 3850, 3000, 144, 720, 1280]
    text = texts(figure)
    for part in ("Cores: 9 → 4", "Synapse words: 7,171 → 2,144", "3,850", "before pruning", "after pruning", "loihi2"):
        assert part in text
    assert [t.get_text() for t in cores.get_yticklabels()] == ["conv1", "conv2", "dense"]


def test_cores_without_an_unpruned_network() -> None:
    data = report()
    data["unpruned"] = None
    figure = plots.cores_figure(data)
    assert figure is not None
    assert bars(figure.axes[0]) == [1, 2, 1]
    assert "Cores: 4" in texts(figure) and "pruning" not in texts(figure)


# --- scores


def test_scores_are_sorted_and_the_cut_marked() -> None:
    figure = plots.scores_figure(SCORES)
    assert figure is not None
    kept, cut = heights(figure.axes[0])
    assert kept[::2] == [4, 3, 0, 0] and cut[::2] == [0, 0, 2, 1]
    kept, cut = heights(figure.axes[1])  # equal ranks: the kept ones stand before the cut
    assert kept[::2] == [2, 2, 0, 0] and cut[::2] == [0, 0, 2, 1]
    assert [list(axes.lines[0].get_xdata()) for axes in figure.axes] == [[2.5, 2.5], [2.5, 2.5]]
    assert "2 of 4 channels kept" in texts(figure)


def test_no_cut_line_where_the_choice_is_not_by_score_or_nothing_is_cut() -> None:
    entry = {"rank": [1.0, 2.0, 3.0], "nuclear": [1.0, 2.0, 3.0]}
    figure = plots.scores_figure({"a": {**entry, "kept": [0]}, "b": {**entry, "kept": [0, 1, 2]}})
    assert figure is not None
    assert [len(axes.lines) for axes in figure.axes] == [0, 0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"rank": [1.0], "nuclear": [1.0, 2.0], "kept": [0]}, "scores of conv1: 1 ranks and 2 nuclear norms; expected one"),
        ({"rank": [1.0], "nuclear": [1.0], "kept": [1]}, r"kept is \[1\]; expected channels, whole numbers in 0\.\.0"),
        ({"rank": [1.0], "nuclear": [1.0], "kept": [True]}, r"kept is \[True\]; expected channels"),
        ({"rank": [1.0], "nuclear": [np.nan], "kept": [0]}, "some are not finite numbers"),
        ({"rank": [1.0], "kept": [0]}, "expected lists of numbers rank, nuclear and kept. Score the channels again"),
        ({"rank": ["high"], "nuclear": [1.0], "kept": [0]}, "expected lists of numbers"),
    ],
)
def test_contradicting_scores_are_refused_before_anything_is_written(entry: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        plots.save_all(report(), network(), {"conv1": entry}, tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- all of them


def test_save_all_writes_four_pictures(tmp_path: Path) -> None:
    written = plots.save_all(report(), network(), SCORES, tmp_path / "plots")
    assert [path.name for path in written] == ["weights.png", "firing.png", "cores.png", "scores.png"]
    assert sorted(written) == sorted((tmp_path / "plots").iterdir())  # no temporary file stays
    for path in written:
        image = imread(path)
        assert image.shape[0] > 150 and image.shape[1] > 500
        assert np.ptp(image[..., :3]) > 0.5  # something is drawn


def test_what_has_no_data_is_left_out(tmp_path: Path) -> None:
    data = report()
    for row in data["layers"]:
        row.update(firing_rate=None, cores=0)
    data["unpruned"] = None
    written = plots.save_all(data, network(), None, tmp_path)
    assert [path.name for path in written] == ["weights.png"]


def test_hostile_names_are_drawn_as_text(tmp_path: Path) -> None:
    names = (HOSTILE, "$$", "\\$x_{1}$" + HOSTILE)
    scores = {HOSTILE: SCORES["conv1"], "$$": SCORES["conv2"]}
    data = report(names)
    data["mapping"]["chip"] = HOSTILE
    assert len(plots.save_all(data, network(names), scores, tmp_path)) == 4


def test_neither_pyplot_nor_the_users_settings_matter(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "savefig.format": "pdf"}):
        before = dict(matplotlib.rcParams)
        (path, *_) = plots.save_all(report(), network(), None, tmp_path)
        assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []
    assert imread(path)[..., :3].mean() > 0.8  # light paper, whatever the user's style


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (plots.save_all(report(), network(), None, tmp_path / name) for name in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("a file, not a folder")
    with pytest.raises(RunError, match=r"cannot write .*weights\.png"):
        plots.save_all(report(), network(), None, tmp_path / "plots")


def test_many_layers_stay_readable_and_are_counted() -> None:
    data = report()
    data["layers"] = [{**data["layers"][1], "name": f"conv{i}"} for i in range(130)]
    data["unpruned"] = None
    figure = plots.firing_figure(data)
    assert figure is not None
    assert "the first 100 of 130 layers" in texts(figure)
    labels = figure.axes[0].get_yticklabels()
    boxes = [label.get_window_extent() for label in labels[:30]]
    assert all(lower.y1 < upper.y0 for upper, lower in itertools.pairwise(boxes))  # the first on top, no overlap
    figure = plots.scores_figure({f"conv{i}": SCORES["conv1"] for i in range(56)})
    assert figure is not None and len(figure.axes) == plots.MAX_PANELS
    assert "the first 40 of 56 layers" in "".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))
