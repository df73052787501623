from __future__ import annotations

import itertools
import json
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

import mapping
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


# --- the mapping


def mapped(
    chip: str = "loihi2", share: bool = False, names: tuple[str, ...] = ("conv1", "conv2", "dense"), **limits: int
) -> Any:
    """``mapping`` of a report, of the network above on a chip that may be small."""
    net = network(names)
    found = mapping.allow(mapping.load_chip(chip, limits), free_tiles=share, share_cores=share)
    placed = mapping.place(net, mapping.map_network(net, found)).mapping
    details = {
        **mapping.describe(net, placed),
        "pareto": mapping.front_rows(mapping.front(net, found)),
        "layers": mapping.utilisation(net, placed).to_dict()["layers"],
        "chip": chip,
    }
    return json.loads(json.dumps(details))


def images(figure: Figure) -> dict[str, np.ndarray[Any, Any]]:
    """Title of each panel with an image -> its values, nan for empty cells."""
    shown = [(axes.get_title("left") or axes.get_title(), axes.images) for axes in figure.axes if axes.images]
    return {title: np.ma.filled(found[0].get_array().astype(float), np.nan) for title, found in shown}


def test_every_core_stands_at_its_place_on_the_mesh() -> None:
    data = mapped(neurons=20)
    figure = plots.mesh_figure(data)
    assert figure is not None
    panels = images(figure)
    assert [title.split(":")[0] for title in panels] == [
        *("neurons", "axon in", "axon map", "synapse words", "pool", "synaptic operations")
    ]
    for title, image in panels.items():
        assert image.shape == (8, 16)  # 8 x 4 tiles of 2 x 2 cores
        key = title.split(":")[0].replace(" ", "_")
        busiest = max(row["operations"] for row in data["core_use"])
        for row in data["core_use"]:
            below, right = divmod(row["core"] % 4, 2)
            value = 100 * row["operations"] / busiest if key == "synaptic_operations" else row[f"percent_{key}"]
            assert image[2 * row["y"] + below, 2 * row["x"] + right] == pytest.approx(value)
        assert np.isfinite(image).sum() == len(data["core_use"]) > 10
    assert f"{len(data['core_use'])} cores on 1 chip of loihi2" in texts(figure)


def test_several_chips_stand_side_by_side_and_too_many_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = mapped(neurons=20, cores_per_chip=4)
    chips = len({row["chip"] for row in data["core_use"]})
    assert chips > 2
    figure = plots.mesh_figure(data)
    assert figure is not None
    written = texts(figure)
    assert all(f"chip {i}" in written for i in range(chips)) and f"on {chips} chips of loihi2" in written
    assert all(np.isfinite(image).sum() == len(data["core_use"]) for image in images(figure).values())
    monkeypatch.setattr(plots, "MAX_CHIPS", 2)
    figure = plots.mesh_figure(data)
    assert figure is not None and "(the first 2 chips)" in texts(figure) and "chip 2" not in texts(figure)


def test_shared_cores_show_their_neuron_groups() -> None:
    figure = plots.mesh_figure(mapped(share=True))
    assert figure is not None and "neuron groups: at most" in texts(figure)


def test_the_parts_of_the_pool_add_up() -> None:
    data = mapped()
    figure = plots.use_figure(data)
    assert figure is not None
    layers = [row for row in data["layers"] if row["cores"]]
    widths = np.array(bars(figure.axes[0])).reshape(-1, len(layers))  # parts, layers
    assert widths.sum(0) == pytest.approx([row["pool_percent"] for row in layers])
    parts = np.array([[row[part] for row in layers] for part in plots.POOL_PARTS])
    assert widths * parts.sum(0) == pytest.approx(parts * widths.sum(0))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [f"{row['name']} ({row['cores']})" for row in layers]
    assert "synapse words" in texts(figure)


def test_a_chip_without_a_pool_has_a_panel_per_resource() -> None:
    data = mapped("loihi1", neurons=40)
    figure = plots.use_figure(data)
    assert figure is not None
    assert [axes.get_title("left") for axes in figure.axes] == ["neurons", "axon in", "axon out", "synapse words"]
    layers = [row for row in data["layers"] if row["cores"]]
    for axes, resource in zip(figure.axes, ("neurons", "axon_in", "axon_out", "synapse_words"), strict=True):
        assert bars(axes) == pytest.approx([row["percent"][resource][0] for row in layers])


def test_the_traffic_matrix_is_that_of_the_mapping() -> None:
    data = mapped()
    figure = plots.traffic_figure(data)
    assert figure is not None
    (image,) = images(figure).values()
    expected = np.array(data["traffic"]["messages"])
    assert np.array_equal(np.nan_to_num(image), expected) and np.isnan(image[expected == 0]).all()
    shown = sorted(float(t.get_text()) for t in figure.axes[0].texts)
    assert shown == pytest.approx(sorted(expected[expected > 0]), rel=0.05)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["input", "conv1", "conv2", "dense"]


def test_the_front_has_a_point_for_each_plan() -> None:
    data = mapped(neurons=20)
    figure = plots.pareto_figure(data)
    assert figure is not None
    points, ring = figure.axes[0].collections
    found = [[plan["cores"], plan["messages"]] for plan in data["pareto"]]
    assert np.asarray(points.get_offsets()).tolist() == found and len(found) > 1
    assert np.asarray(points.get_array()).tolist() == [plan["operations"] for plan in data["pareto"]]
    assert np.asarray(ring.get_offsets()).tolist() == [min(found)]
    assert f"{len(found)} cuts" in texts(figure) and "fewest cores" in texts(figure)


def test_a_mapping_without_details_has_no_pictures(tmp_path: Path) -> None:
    assert plots.save_mapping({"chip": "loihi2"}, tmp_path) == []
    silent = mapped()
    silent["traffic"]["messages"] = np.zeros((4, 4)).tolist()
    for row in silent["core_use"]:
        row["operations"] = 0.0
    figure = plots.mesh_figure(silent)
    assert plots.traffic_figure(silent) is None and figure is not None and "operations" not in texts(figure)


def test_hostile_names_on_the_pictures_of_a_mapping(tmp_path: Path) -> None:
    data = mapped(names=(HOSTILE, "$$", "\\$x_{1}$" + HOSTILE))
    data["chip"] = HOSTILE
    written = plots.save_mapping(data, tmp_path)
    assert [path.name for path in written] == ["mesh.png", "use.png", "traffic.png", "pareto.png"]
    for path in written:
        image = imread(path)
        assert image.shape[0] > 150 and image.shape[1] > 500 and np.ptp(image[..., :3]) > 0.5


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.123, "0.12"), (9.5, "9.5"), (120.4, "120"), (999.6, "1k"), (12_345, "12.3k"), (2.5e6, "2.5M")],
)
def test_numbers_on_pictures_are_short(value: float, text: str) -> None:
    assert plots._short(value) == text


# --- all of them


def test_save_all_writes_four_pictures(tmp_path: Path) -> None:
    written = plots.save_all(report(), network(), SCORES, tmp_path / "plots")
    assert [path.name for path in written] == ["weights.png", "firing.png", "cores.png", "scores.png"]  # none of a mapping
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
