"""NeuroBench's metrics: by hand, against plain torch layers, and against the neurobench package where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from netx_export.engine import Summary, summarise
from netx_export.errors import FormatError
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection, Rate, Voltage
from netx_export.simulate import simulate
from qpsnn_lava import report, report_file
from qpsnn_lava.metrics import metrics
from qpsnn_lava.sizes import deployed_mb

STEPS, SAMPLES = 5, 3


def case(input_bits: int, integrator: bool = True) -> tuple[Network, Any]:
    """2x6x5 -> conv 4 (stride 2, padding 1) -> grouped conv 4 -> dense 6 -> read-out, with zeros; and inputs."""
    rng = np.random.default_rng(3)

    def weights(*shape: int) -> Any:
        return (rng.integers(-3, 8, shape) * (rng.random(shape) < 0.7)).astype(np.int32)

    lif, units = Lif(4096, 2048, 4), 4
    last = Integrator(4096, 0) if integrator else lif
    populations = (
        Population("input", (2, 6, 5)),
        Population("first", (4, 3, 3), Lif(4096, 2048, 12 * (2**input_bits - 1) if input_bits else 12)),
        Population("second", (4, 2, 3), lif),
        Population("dense", (6,), lif),
        Population("output", (units,), last),
    )
    projections = (
        Projection("input", "first", Conv(weights(4, 2, 3, 3), stride=(2, 2), padding=(1, 1))),
        Projection("first", "second", Conv(weights(4, 2, 2, 1), groups=2)),
        Projection("second", "dense", Dense(weights(6, 24))),
        Projection("dense", "output", Dense(weights(units, 6))),
    )
    network = Network(populations, projections, Voltage() if integrator else Rate(2), input_bits, STEPS)
    top = 2**input_bits if input_bits else 2
    return network, rng.integers(0, top, (SAMPLES, 2, 6, 5, STEPS))


def layers(network: Network) -> dict[str, torch.nn.Module]:
    """The projections as plain torch layers, without biases."""
    made: dict[str, torch.nn.Module] = {}
    for p in network.projections:
        weight = torch.from_numpy(p.synapse.weight.copy()).float()
        if isinstance(p.synapse, Dense):
            layer: Any = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        else:
            s = p.synapse
            sizes = weight.shape[1] * s.groups, weight.shape[0], tuple(weight.shape[2:])
            layer = torch.nn.Conv2d(*sizes, s.stride, s.padding, s.dilation, s.groups, bias=False)
        layer.weight.requires_grad_(False)
        layer.weight.data = weight
        made[p.target] = layer
    return made


def inputs_of(network: Network, frames: Any) -> dict[str, list[torch.Tensor]]:
    """What each projection gets, step by step."""
    run = simulate(network, frames)
    found = {}
    for p in network.projections:
        spikes = torch.from_numpy(np.asarray(run.spikes[p.source], np.float32))
        found[p.target] = [x.flatten(1) if isinstance(p.synapse, Dense) else x for x in spikes.unbind(-1)]
    return found


@pytest.mark.parametrize("integrator", [True, False])
@pytest.mark.parametrize("input_bits", [0, 4])
def test_against_torch_layers_of_ones(input_bits: int, integrator: bool) -> None:
    network, frames = case(input_bits, integrator)
    found = metrics(network, summarise(network, frames))
    effective = dict.fromkeys((p.target for p in network.projections), 0.0)
    dense = spikes = slots = 0.0
    arriving = inputs_of(network, frames)
    for name, layer in layers(network).items():
        weight = layer.weight.data
        for x in arriving[name]:
            layer.weight.data = (weight != 0).float()
            effective[name] += float(layer((x != 0).float()).sum())
            layer.weight.data = torch.ones_like(weight)
            dense += float(layer(torch.ones_like(x)).sum())
    assert all(effective.values())
    macs = effective["first"] if input_bits else 0.0
    assert found.effective_macs == macs / SAMPLES
    assert found.effective_acs == (sum(effective.values()) - macs) / SAMPLES
    assert found.dense == dense / SAMPLES
    run = simulate(network, frames)
    for name in ("first", "second", "dense", *(() if integrator else ("output",))):
        spikes += np.count_nonzero(run.spikes[name])
        slots += run.spikes[name].size
        assert run.spikes[name].any() and not run.spikes[name].all()
    assert found.activation_sparsity == pytest.approx(1 - spikes / slots, rel=1e-12)
    kernels = [p.synapse.weight for p in network.projections]
    assert found.connection_sparsity == sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels) > 0.1
    assert found.footprint == deployed_mb(network) * 1e6


def test_one_weight_less_shows() -> None:
    network, frames = case(4)
    before = metrics(network, summarise(network, frames))
    weight = network.projections[3].synapse.weight.copy()
    position = tuple(np.argwhere(weight != 0)[0])
    weight[position] = 0
    changed = Network(
        network.populations,
        (*network.projections[:3], Projection("dense", "output", Dense(weight))),
        network.readout,
        4,
        STEPS,
    )
    after = metrics(changed, summarise(changed, frames))
    fired = np.count_nonzero(simulate(network, frames).spikes["dense"][:, position[1]])
    assert before.effective_acs - after.effective_acs == pytest.approx(fired / SAMPLES) and fired
    assert after.connection_sparsity > before.connection_sparsity and after.dense == before.dense


def test_a_network_in_which_nothing_can_spike() -> None:
    populations = (Population("input", (3,)), Population("output", (2,), Integrator(4096, 0)))
    network = Network(populations, (Projection("input", "output", Dense(np.ones((2, 3), np.int32))),), Voltage(), 0, 2)
    nothing = Summary(1, 2, {"input": 0, "output": 0}, {"input -> output": 0}, np.zeros((1, 2), np.int32), np.zeros((1, 2)))
    assert metrics(network, nothing).activation_sparsity == 0.0
    assert metrics(network, nothing).dense == 2 * 6


def test_the_reports_table() -> None:
    network, frames = case(4)
    made = metrics(network, summarise(network, frames)).to_dict()
    text = report._metrics_table({"network": made, "unpruned": made})
    rows = {line.split("|")[1].strip().replace("\\", ""): line.split("|")[2:4] for line in text.splitlines() if "|" in line}
    assert rows["NeuroBench metric"] == [" unpruned ", " final "]
    assert rows["Dense"] == [f" {made['synaptic_operations']['Dense']:,.0f} "] * 2
    assert rows["connection_sparsity"][0].strip() == f"{100 * made['connection_sparsity']:.2f} %"
    report_file._METRICS(made, "metrics.network")
    with pytest.raises(FormatError, match=r"metrics\.network\.connection_sparsity is 2; expected a number in 0\.\.1"):
        report_file._METRICS({**made, "connection_sparsity": 2}, "metrics.network")


@pytest.mark.parametrize("input_bits", [0, 4])
def test_against_the_neurobench_package(input_bits: int) -> None:
    """Static and workload metrics of the same layers, fed with the same spikes."""
    reason = "the neurobench package is not installed"
    models = pytest.importorskip("neurobench.models", reason=reason)
    static = pytest.importorskip("neurobench.metrics.static.connection_sparsity", reason=reason)
    sparsity = pytest.importorskip("neurobench.metrics.workload.activation_sparsity", reason=reason)
    operations = pytest.importorskip("neurobench.metrics.workload.synaptic_operations", reason=reason)
    network, frames = case(input_bits)
    arriving = inputs_of(network, frames)
    net = torch.nn.Module()
    for name, layer in layers(network).items():
        net.add_module(name, torch.nn.Sequential(layer, torch.nn.Identity()))
    model = models.TorchModel(net)
    model.register_hooks()
    for hook in model.connection_hooks:
        hook.reset()
    for name, xs in arriving.items():
        for x in xs:
            net.get_submodule(f"{name}.0")(x)
    data = (torch.zeros(SAMPLES), torch.zeros(SAMPLES))
    theirs = operations.SynapticOperations()(model, None, data)
    ours = metrics(network, summarise(network, frames)).to_dict()
    assert theirs == pytest.approx(ours["synaptic_operations"])
    assert static.ConnectionSparsity()(model) == pytest.approx(ours["connection_sparsity"], abs=5e-5)

    class Recorded:
        activation_outputs: list[torch.Tensor]

    hooks = []
    run = simulate(network, frames)
    for name in ("first", "second", "dense"):
        hook = Recorded()
        hook.activation_outputs = [torch.from_numpy(np.asarray(run.spikes[name], np.float32)).flatten(1)]
        hooks.append(hook)
    model.activation_hooks = hooks
    assert sparsity.ActivationSparsity()(model, None, data) == pytest.approx(ours["activation_sparsity"])
