"""``qpsnn bench``: how fast this machine runs things."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from netx_export.errors import MismatchError
from qpsnn_lava.cli.console import JsonFlag, NetFile, columns, err, print_json, screen
from qpsnn_lava.cli.netx import load_array

if TYPE_CHECKING:
    from qpsnn_lava.bench import Bench

app = typer.Typer(help="Measure how fast this machine runs a network.")


@app.command("simulate")
def simulate(
    file: NetFile,
    input_: Annotated[
        Path | None, typer.Option("--input", metavar="X.npy", help="Whole numbers; random where it is left out.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at once, beside a batch of one.")] = 32,
    steps: Annotated[int | None, typer.Option(min=1, help="Of random input (default: 16).")] = None,
    density: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Spikes per neuron and step of random input (default: 0.1).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random input.")] = 0,
    skip_layers: Annotated[
        int | None, typer.Option(min=0, help="Leave out the first layers (default: an input layer with spiking neurons).")
    ] = None,
    rounds: Annotated[int, typer.Option(min=5, help="Measurements of each, in turn.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Of engine and torch (default: all cores).")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="NAME", help="Leave out lava, fast-lava, reference or torch.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds of one Lava run.")] = 600.0,
    as_json: JsonFlag = False,
) -> None:
    """Time a netx file on stock Lava, fast Lava, the reference, the engine and in torch (exit code 3 where they differ)."""
    from qpsnn_lava.bench import bench

    console = err()
    found = bench(
        file,
        frames=None if input_ is None else load_array(input_),
        batch=batch,
        steps=steps,
        density=density,
        seed=seed,
        skip=skip_layers,
        rounds=rounds,
        threads=threads,
        without=[name.replace("-", "_") for name in without or []],
        timeout=timeout,
        say=lambda text: None if as_json else console.print(escape(text), highlight=False),
    )
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
    if found.mismatches:
        raise MismatchError(found.where)


@app.command("map")
def map_(
    chip: Annotated[str, typer.Option(help="Name or TOML file of the chip.")] = "loihi2",
    as_json: JsonFlag = False,
) -> None:
    """Time the mapper: ten layers with a 448x448 input, 10 to 40 layers, PilotNet, and placing some 600 cores."""
    from mapping import load_chip
    from mapping.bench import bench

    found = bench(load_chip(chip))
    if as_json:
        print_json(found.to_dict())
        return
    table = columns("network", "layers", "cores", "at least", "gap", "seconds", left=["network"])
    ways = [*found.ways, *found.growth, *([found.pilotnet] if found.pilotnet else [])]
    for way in ways:
        counts = (f"{n:,}" for n in (way.layers, way.cores, way.lower_bound))
        table.add_row(escape(way.what), *counts, f"{way.gap_percent:.1f} %", f"{way.seconds:.2f}")
    console = screen()
    console.print(table)
    seats = found.placement
    console.print(
        f"\nplacing {seats.cores:,} cores: {seats.seconds:.2f} s, hops a step {seats.hops_before:,.0f} -> {seats.hops:,.0f}"
    )
    if found.pilotnet is None:
        console.print("PilotNet is left out: lava-dl, which ships its file, is not installed")
    console.print(f"[dim]{escape(found.chip)}; seconds: of the first time, wall clock, in one process[/]")


@app.command("train")
def train(
    batch: Annotated[int, typer.Option(min=1, help="Samples of a step.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Time steps of a sample.")] = 8,
    rounds: Annotated[int, typer.Option(min=5, help="Measurements of each, in turn.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and input.")] = 0,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where both train.")] = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Time a training step of stock SLAYER and of the same network with fused dynamics (exit code 3 where spikes differ).

    The network: convolutions 32-32-64-64 on 28x28, then dense.
    """
    from netx_export.engine import cores
    from qpsnn_lava import bench_training

    console = err()
    found = bench_training.bench(
        batch=batch,
        steps=steps,
        rounds=rounds,
        threads=threads or cores(),
        seed=seed,
        device=device,
        say=lambda text: None if as_json else console.print(escape(text), highlight=False),
    )
    if as_json:
        print_json(found.to_dict())
    else:
        table = columns("", *bench_training.PARTS, "step", "memory", left=[""])
        for name, parts in found.parts.items():
            table.add_row(
                {"slayer": "stock SLAYER", "fused": "fused"}[name],
                *(f"{1000 * seconds:,.1f} ms" for seconds in parts.values()),
                f"{found.peak_bytes[name] / 1e6:,.0f} MB",
            )
        out = screen()
        out.print(table)
        density = ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in found.density.items())
        if found.speedup is None:
            lines = [f"left out: {why}" for why in found.left_out.values()]
        else:
            share = found.peak_bytes["fused"] / found.peak_bytes["slayer"]
            lines = [f"the whole step {found.speedup:.2f} times faster, in {share:.2f} of the memory"]
        on = "" if found.device == "cpu" else f" on {found.device}"
        memory = "three steps add to a process of their own" if found.device == "cpu" else "a step allocates on the device"
        lines += [
            f"spikes {'equal in all layers' if found.spikes_equal else 'NOT EQUAL'}, "
            f"gradients within {found.max_gradient_error:.1e} of the largest",
            f"spikes per neuron and step: {density}",
            f"how: median of {found.rounds} rounds in turn{on}; batch {found.batch}, {found.steps} steps, {found.threads} threads; "
            f"memory: what\n{memory}",
        ]
        out.print(escape("\n" + "\n".join(lines)))
    if not found.spikes_equal:
        raise MismatchError("stock SLAYER and the fused dynamics do not give the same spikes; please report it.")


@app.command("score")
def score(
    channels: Annotated[int, typer.Option(min=1, help="Of the layer.")] = 512,
    size: Annotated[int, typer.Option(min=2, max=512, help="Height and width of a map.")] = 32,
    samples: Annotated[int, typer.Option(min=1, help="Images that are scored.")] = 640,
    loop_samples: Annotated[
        int, typer.Option(min=1, help="Of each 64 of them, how many the loop takes; its time is scaled.")
    ] = 4,
    density: Annotated[float, typer.Option(min=0.0, max=0.5, help="Spikes per neuron and step, on average.")] = 0.05,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each, in turn.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the maps.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Time the SVS ranks of all maps at once against a loop that calls matrix_rank (exit code 3 where the scores differ)."""
    from netx_export.engine import cores
    from qpsnn_lava import bench_scores

    console = err()
    found = bench_scores.bench(
        channels=channels,
        size=size,
        samples=samples,
        loop_samples=loop_samples,
        density=density,
        rounds=rounds,
        threads=threads or cores(),
        seed=seed,
        say=lambda text: None if as_json else console.print(escape(text), highlight=False),
    )
    if as_json:
        print_json(found.to_dict())
    else:
        table = columns("", "seconds", left=[""])
        table.add_row(f"one map after another (scaled from {found.loop_samples} samples)", f"{found.loop_seconds:,.2f}")
        table.add_row("all at once: ranks", f"{found.batched_seconds:,.2f}")
        table.add_row("all at once: ranks and nuclear norms (scaled likewise)", f"{found.nuclear_seconds:,.2f}")
        out = screen()
        out.print(table)
        out.print(
            f"\n{found.speedup:.1f} times faster, scores {'equal' if found.equal else 'NOT EQUAL'}\n"
            f"maps: {found.samples} samples of {found.channels} channels, {found.size}x{found.size}, mean rank {found.mean_rank:.1f}\n"
            f"how: median of {found.rounds} rounds in turn; {found.threads} threads"
        )
    if not found.equal:
        raise MismatchError("the ranks of all maps at once are not those of the loop; please report it.")


def _print(found: Bench) -> None:
    from qpsnn_lava.bench import CONTENDERS, LAVA, MIN_SECONDS

    stock = found.rates("lava").get("1")
    table = columns("", "batch", "steps/s", "times Lava", "steps a round", left=[""])
    for series in found.series:
        rate, least, most = series.steps_per_second, min(series.sample_steps), max(series.sample_steps)
        times = "" if stock is None else _number(rate / stock)
        counted = f"{least:,}" if least == most else f"{least:,}..{most:,}"
        table.add_row(CONTENDERS[series.contender], str(series.batch), _number(rate), times, counted)
    console = screen()
    console.print(table)
    console.print("[dim]steps: time steps of a sample; Lava: stock Lava[/]\n")
    shape = "x".join(map(str, found.input_shape))
    source = "" if found.seed is None else f", random with seed {found.seed}"
    first = f"; instead of the first {found.skipped} layer(s)" if found.skipped else ""
    density = ", ".join(f"{name} {100 * rate:.2f} %" for name, rate in found.density.items())
    others = [CONTENDERS[name] for name in found.checks if name != "engine"]
    compared = sum(check.spikes_compared + check.voltages_compared for check in found.checks.values())
    lines = [
        f"input: {found.batch} samples of {found.steps} steps, {shape}{source}{first}",
        f"spikes per neuron and step: {density}",
        f"equality: {found.mismatches} of {compared:,} values differ between the engine and "
        + ", ".join([*(f"{name} (all layers, first sample)" for name in others), "itself (one sample at a time)"]),
        f"how: median of {found.rounds} rounds, in each of which all are measured in turn for at least {MIN_SECONDS} s, after one "
        f"measurement that does not count; {found.threads} threads"
        + ("; Lava: all steps that it ran, without the start of its processes" if found.checks.keys() & LAVA.keys() else ""),
        "versions: " + ", ".join(f"{name} {version}" for name, version in found.versions.items()),
    ]
    lines += [f"left out: {CONTENDERS[name]}: {why}" for name, why in found.left_out.items()]
    for line in lines:
        console.print(escape(line))


def _number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
