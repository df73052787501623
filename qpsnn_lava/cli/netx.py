"""``qpsnn inspect``, ``simulate`` and ``verify``: what a netx file holds, what it computes, whether Lava agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from netx_export.errors import ConfigError, FormatError, MismatchError
from qpsnn_lava.cli.console import JsonFlag, NetFile, columns, print_json, screen


def inspect(
    file: NetFile,
    as_lava: Annotated[bool, typer.Option("--as-lava", help="Ignore what Lava ignores.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what a netx file holds: shapes, integer ranges, stored bits, thresholds."""
    from netx_export import hdf5
    from netx_export.inspect import describe

    found = describe(hdf5.read(file, as_lava=as_lava))
    if as_json:
        print_json(found)
        return
    titles = ("layer", "type", "shape", "weights", "range", "bits", "thresh.", "bias")
    table = columns(*titles, left=titles[:3])
    for layer in found["layers"]:
        table.add_row(
            escape(layer["name"]),
            layer["type"],
            "x".join(map(str, layer["shape"])),
            f"{layer['weights']:,}" if layer["weights"] else "",
            _range(layer["weight"]),
            str(layer["stored_bits"] or ""),
            "" if layer["threshold"] is None else str(layer["threshold"]),
            _range(layer["bias"]),
        )
    console = screen()
    console.print(table)
    graded = f", graded input of {found['input_bits']} bits" if found["input_bits"] else ""
    window = f", window of {found['steps']} steps" if found["steps"] else ""
    readout = f", read-out: {found['readout']}" if found["readout"] else ""
    console.print(f"\n{found['neurons']:,} neurons, {found['synapses']:,} synapses{graded}{window}{readout}")


def simulate(
    file: NetFile,
    input_: Annotated[Path, typer.Option("--input", metavar="X.npy", help="Whole numbers (samples, *shape, time).")],
    out: Annotated[Path | None, typer.Option("--out", metavar="Y.npz", help="Where spikes and voltages go.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a netx file exactly, on integers; writes every population's spikes and the output's voltage."""
    import numpy as np

    from netx_export import engine, hdf5
    from netx_export.atomic import replacing
    from netx_export.simulate import decide, synaptic_operations

    network = hdf5.read(file)
    frames = load_array(input_)
    made = engine.simulate_fast(network, frames)
    result: dict[str, Any] = {
        "samples": int(frames.shape[0]),
        "steps": int(frames.shape[-1]),
        "spikes": {name: int(np.count_nonzero(s)) for name, s in made.spikes.items()},
        "rates": {name: float(np.count_nonzero(s) / s.size) for name, s in made.spikes.items()},
        "synaptic_ops": synaptic_operations(network, made),
    }
    if network.readout is not None:
        result["classes"] = decide(network, made)[0].tolist()
    if out is not None:
        with replacing(out) as temporary, temporary.open("wb") as stream:
            arrays = {f"spikes/{k}": v for k, v in made.spikes.items()} | {f"voltage/{k}": v for k, v in made.voltage.items()}
            np.savez_compressed(stream, allow_pickle=False, **arrays)
        result["out"] = str(out)
    if as_json:
        print_json(result)
        return
    table = columns("population", "spikes", "rate", left=["population"])
    for name, count in result["spikes"].items():
        table.add_row(escape(name), f"{count:,}", f"{100 * result['rates'][name]:.2f} %")
    screen().print(table)


def verify(
    file: Annotated[Path | None, typer.Argument(metavar="FILE.net", help="A netx file.", show_default=False)] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", metavar="X.npy", help="Whole numbers; random where it is left out.")
    ] = None,
    against: Annotated[Path | None, typer.Option(metavar="OUT.npy", help="A recording instead of Lava.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples of random input.")] = 8,
    density: Annotated[float, typer.Option(min=0.0, max=1.0, help="Spikes per neuron and step of random input.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the random input.")] = 0,
    lava_models: Annotated[str, typer.Option(help="stock, or fast (ours, the same integers).")] = "stock",
    backend: Annotated[str, typer.Option(help="cpu or loihi2.")] = "cpu",
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds.")] = 600.0,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts of the samples.")] = "1/1",
    results: Annotated[
        Path | None, typer.Option(metavar="R.json", help="Keeps what is done; a stopped check goes on.")
    ] = None,
    merge: Annotated[
        list[Path] | None, typer.Option("--merge", metavar="R.json", help="Add up the results of all shards.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Hold a netx file's run on Lava, or a recording, against the exact simulation (exit code 3 where they differ)."""
    from netx_export import hdf5
    from netx_export import verify as checks

    if merge:
        result = checks.merge(merge)
    elif file is None:
        raise ConfigError("verify needs a FILE.net, or the results of shards: --merge R1.json --merge R2.json.")
    else:
        network = hdf5.read(file)
        frames = checks.random_input(network, samples, density, seed) if input_ is None else load_array(input_)
        part = shard_of(shard)
        if against is None:
            result = checks.verify_lava(
                file, network, frames, backend=backend, models=lava_models, timeout=timeout, shard=part, results=results
            )
        else:
            result = checks.verify_recorded(file, network, frames, against, shard=part, results=results)
    if as_json:
        print_json(result.to_dict())
    else:
        screen().print(escape(str(result)))
    if result.mismatches:
        raise MismatchError(result.where)


def _range(pair: list[int] | tuple[int, int] | None) -> str:
    return "" if pair is None else f"{pair[0]}..{pair[1]}"


def shard_of(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not slash or not part.isdigit() or not parts.isdigit() or not 1 <= int(part) <= int(parts):
        raise ConfigError(f"--shard {text!r} is not of the form I/N with 1 <= I <= N, such as 2/8.")
    return int(part), int(parts)


def load_array(path: Path) -> Any:
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False, mmap_mode="r")
    except FileNotFoundError:
        raise FormatError(f"{path}: there is no such file.") from None
    except (OSError, ValueError, EOFError):
        raise FormatError(f"{path} is not an .npy file of numbers; write one with numpy.save.") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise FormatError(f"{path} holds several arrays; one is expected: write it with numpy.save.")
    return found
