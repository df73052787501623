"""``qpsnn inspect``, ``simulate``, ``verify`` and ``import``: what a netx file holds and computes, and netx files from NIR."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from netx_export.errors import ConfigError, FormatError, MismatchError
from qpsnn_lava.cli.console import JsonFlag, NetFile, columns, command_line, print_json, screen, versions

if TYPE_CHECKING:
    from netx_export.network import Network

AsLava = Annotated[bool, typer.Option("--as-lava", help="Ignore what Lava ignores.")]
PIECE = 16 << 20  # bytes of input that are read at a time


def inspect(
    file: NetFile,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1 << 20, help="Window to bound the states in (default: the file's).")
    ] = None,
    as_lava: Annotated[bool, typer.Option("--as-lava", help="Without a word on what --as-lava ignores elsewhere.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="PAGE.html", help="The same and the weights as one self-contained page.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a netx file holds: shapes, integers, stored bits, thresholds, how far states can go, what Lava ignores."""
    from netx_export.inspect import surveyed

    if html is not None and os.path.exists(html) and os.path.exists(file) and os.path.samefile(html, file):
        raise ConfigError(f"--html {html} is the netx file itself; name another file for the page.")
    network, found = surveyed(file, steps=steps)
    if as_lava:
        found["warnings"] = [warning for warning in found["warnings"] if warning["read"] != "as_lava"]
    if html is not None:
        _write_page(html, file.name, network, found)
    if as_json:
        print_json(found)
        return
    titles = ("layer", "type", "shape", "weights", "range", "bits", "thresh.", "bias")
    table = columns(*titles, left=titles[:3])
    for layer in found["layers"]:
        table.add_row(
            _name(layer["name"]),
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
    _print_reach(found)
    _print_warnings(found["warnings"])
    graded = f", graded input of {found['input_bits']} bits" if found["input_bits"] else ""
    window = f", window of {found['steps']} steps" if found["steps"] else ""
    readout = f", read-out: {found['readout']}" if found["readout"] else ""
    console.print(f"\n{found['neurons']:,} neurons, {found['synapses']:,} synapses{graded}{window}{readout}")
    if html is not None:
        console.print(f"\n{escape(str(html))}", soft_wrap=True)


def _write_page(path: Path, name: str, network: Network, found: dict[str, Any]) -> None:
    from netx_export.atomic import write_text
    from qpsnn_lava.inspect_page import inspect_page, of_file
    from qpsnn_lava.plots import weight_rows

    write_text(path, inspect_page(of_file(name, command_line(), found, weight_rows(network), versions())))


def _print_reach(found: dict[str, Any]) -> None:
    """Decays, how far u and v can go within the window, and the longest window without an overflow."""
    from netx_export.bounds import LONGEST

    layers = [layer for layer in found["layers"] if layer["reach"] is not None]
    if not layers:
        return
    window = ("u reaches", "v reaches") if found["steps"] else ()
    table = columns("layer", "decay u", "decay v", *window, "safe steps", left=["layer"])
    for layer in layers:
        far, safe = layer["reach"], layer["reach"]["safe_steps"]
        table.add_row(
            _name(layer["name"]),
            str(layer["current_decay"]),
            str(layer["voltage_decay"]),
            *(_share(far[key], far[f"{key}_limit"]) for key in ("current", "voltage") if far[key] is not None),
            "any" if safe is None else f"{safe:,}" if safe < LONGEST else f"{LONGEST:,} or more",
        )
    console = screen()
    console.print()
    console.print(table)
    console.print("[dim]safe steps: the longest window in which no input makes u or v overflow[/]")
    if found["steps"]:
        console.print("[dim]reaches: at most, of 2^23, or of a read-out's threshold, whatever the input in the window[/]")


def _print_warnings(warnings: list[dict[str, Any]]) -> None:
    if not warnings:
        return
    table = columns("where", "what", left=["where", "what"])
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    table.columns[1].no_wrap = False
    table.columns[0].max_width = 34
    for warning in warnings:
        table.add_row(f"{_name(warning['layer'])}, {_name(warning['key'])}", _name(warning["what"], 600))
    console = screen()
    console.print(f"\n[bold yellow]What Lava ignores, cuts or computes wrongly without saying so: {len(warnings)}[/]")
    console.print(table)
    reads = {warning["read"] for warning in warnings}
    if "as_lava" in reads:
        console.print(
            "\nsimulate and verify take what Lava ignores with --as-lava, and ignore it too; without it they refuse the file."
        )
    if "refused" in reads:
        ways = dict.fromkeys(warning["way"].rstrip(".") for warning in warnings if warning["read"] == "refused")
        console.print(f"\nNo command runs this file as it is: {escape('; '.join(ways))}.")


def _name(text: str, longest: int = 60) -> str:
    """A text of the file on one line, harmless for a terminal."""
    from netx_export.text import plain

    return escape(plain(text, longest))


def _share(value: int, limit: int) -> str:
    return f"{100 * value / limit:.1f} %" if value < 100 * limit else "> 10000 %"


def simulate(
    file: NetFile,
    input_: Annotated[Path, typer.Option("--input", metavar="X.npy", help="Whole numbers (samples, *shape, time).")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="Y.npz", help="Where all spikes and the output's voltages go.")
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option("--probe", metavar="NAME,...", help="Keep spikes, u, v, bias of these layers.")
    ] = None,
    probe_samples: Annotated[
        str, typer.Option(metavar="LIST", help="Of which samples: 0,3 or 0:4 (4 is not one of them).")
    ] = ":",
    probe_steps: Annotated[str, typer.Option(metavar="LIST", help="In which steps.")] = ":",
    probe_out: Annotated[Path | None, typer.Option(metavar="P.npz", help="Where they go.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
    max_memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Of the run, and of what is kept for a file, such as 500MB.")
    ] = "2GiB",
    as_lava: AsLava = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a netx file exactly, on integers: spikes, synaptic operations, classes; spikes and voltages to files.

    Without --out memory stays bounded whatever the number of samples.
    """
    from netx_export import engine, hdf5
    from netx_export import probe as probes
    from netx_export.simulate import checked, decide_scores

    limit = size_of(max_memory)
    if bool(probe) != (probe_out is not None):
        raise ConfigError(
            "--probe and --probe-out belong together: name layers and a file, such as --probe conv1 --probe-out p.npz."
        )
    network = hdf5.read(file, as_lava=as_lava)
    frames = load_array(input_)
    if frames.ndim != len(network.input.shape) + 2 or not frames.size:
        checked(network, frames)  # says what is wrong
    samples, steps = int(frames.shape[0]), int(frames.shape[-1])
    if probe and probe_out is not None:  # first: what is wrong with a short request should not be said after a long run
        names = [name.strip() for text in probe for name in text.split(",")]
        chosen = indices_of("--probe-samples", probe_samples, "sample", samples)
        times = indices_of("--probe-steps", probe_steps, "step", steps)
        _write_arrays(
            probe_out, probes.probe(network, frames, names, samples=chosen, steps=times, threads=threads, max_memory=limit)
        )
    if out is not None:
        needed = 4 * samples * steps * sum(p.size for p in (*network.populations, network.output))
        if needed > limit:
            raise ConfigError(
                f"--out keeps all spikes, {needed} bytes; --max-memory is {limit}. Allow more, give fewer samples, or keep a part "
                "with --probe."
            )
        made = engine.simulate_fast(network, frames, threads=threads, max_memory=limit)
        arrays = {f"spikes/{k}": v for k, v in made.spikes.items()} | {f"voltage/{k}": v for k, v in made.voltage.items()}
        _write_arrays(out, arrays)
        del made, arrays
    found = engine.summarise(network, _pieces(frames), threads=threads, max_memory=limit)
    cells = {p.name: p.size * samples * steps for p in network.populations}
    result: dict[str, Any] = {
        "samples": samples,
        "steps": steps,
        "spikes": dict(found.spikes),
        "rates": {name: count / cells[name] for name, count in found.spikes.items()},
        "synaptic_ops": dict(found.operations),
    }
    if network.readout is not None:
        result["classes"] = decide_scores(engine.scores(network, found))[0].tolist()
    result |= {key: str(path) for key, path in (("out", out), ("probe_out", probe_out)) if path is not None}
    if as_json:
        print_json(result)
        return
    table = columns("population", "spikes", "rate", "synaptic ops", left=["population"])
    for name, count in result["spikes"].items():
        caused = [found.operations[f"{p.source} -> {p.target}"] for p in network.projections if p.source == name]
        table.add_row(escape(name), f"{count:,}", f"{100 * result['rates'][name]:.2f} %", f"{sum(caused):,}" if caused else "")
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
    as_lava: AsLava = False,
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
        network = hdf5.read(file, as_lava=as_lava)
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


def import_nir(
    file: Annotated[Path, typer.Argument(metavar="X.nir", help="A NIR file, of any framework.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.net", help="Where to (default: beside X.nir).")
    ] = None,
    dt: Annotated[float | None, typer.Option(metavar="SECONDS", help="The step's length; NIR files do not say it.")] = None,
    bits: Annotated[list[str] | None, typer.Option(metavar="[LAYER=]B", help="Weights of 2..8 bits (default: 8).")] = None,
    gamma: Annotated[
        list[str] | None,
        typer.Option(metavar="[LAYER=]G", help="ReScaW's scale: max (default), mean_abs, percentile or none."),
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Quantise also a file that holds our integers.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a NIR file as a netx file: its integers where we wrote it, else quantised, with what was rounded."""
    from netx_export import hdf5
    from qpsnn_lava import nir_import

    widths = _by_layer("--bits", bits, nir_import.BITS)
    scales = _by_layer("--gamma", gamma, nir_import.GAMMA)
    path = out or file.with_suffix(".net")
    made = nir_import.import_nir(file, dt=dt, bits=widths, gamma=scales, anew=anew)
    hdf5.write(made.network, path)
    if as_json:
        roundings = [rounding.to_dict() for rounding in made.roundings]
        print_json({"network": str(path), "exact": made.exact, "dt": made.dt, "roundings": roundings})
        return
    if made.exact:
        print(path)
        return
    weights = columns("layer", "bits", "gamma", "weights off by", "clipped", "threshold", "off by", left=["layer", "gamma"])
    decays = columns("layer", "decay u", "off by", "decay v", "off by", "bias off by", left=["layer"])
    for row in made.roundings:
        name = _name(row.layer, 20)
        shares = [f"{100 * share:.2f} %" for share in (row.weight_error, row.clipped, row.threshold_error, row.bias_error)]
        weights.add_row(name, str(row.bits), row.gamma, *shares[:2], str(row.threshold), shares[2])
        off = (f"{error:.2f}" for error in (row.current_decay_error, row.voltage_decay_error))
        decays.add_row(name, str(row.current_decay), next(off), str(row.voltage_decay), next(off), shares[3])
    console = screen()
    console.print(weights)
    console.print()
    console.print(decays)
    for row in made.roundings:
        for note in row.notes:
            console.print(f"{_name(row.layer)}: {escape(note)}", soft_wrap=True)
    console.print(f"\nQuantised, dt = {made.dt:g} s: {escape(str(path))}", soft_wrap=True)


def _by_layer(option: str, texts: list[str] | None, default: Any) -> Any:
    """The one value of all layers, or those by layer, of texts such as 4 or conv1=4."""
    chosen: dict[str, Any] = {}
    common = default
    for text in texts or ():
        name, equals, last = text.rpartition("=")
        value: Any = last
        if isinstance(default, int):
            if not re.fullmatch(r"[0-9]{1,3}", last):
                raise ConfigError(f"{option} {text!r} is not a number of bits such as 4, or of a layer such as conv1=4.")
            value = int(last)
        if equals:
            chosen[name] = value
        else:
            common = value
    return {"": common, **chosen} if chosen else common


def _range(pair: list[int] | tuple[int, int] | None) -> str:
    return "" if pair is None else f"{pair[0]}..{pair[1]}"


def shard_of(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not slash or not part.isdigit() or not parts.isdigit() or not 1 <= int(part) <= int(parts):
        raise ConfigError(f"--shard {text!r} is not of the form I/N with 1 <= I <= N, such as 2/8.")
    return int(part), int(parts)


def size_of(text: str) -> int:
    """Bytes of a size such as 2GiB, 500MB or 1000000."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kKMGT]?)(i?)B?", text.strip())
    if found is None or (found[3] and not found[2]):
        raise ConfigError(f"--max-memory {text!r} is not a size; write a number of bytes, or one with kB, MB, GB, MiB or GiB.")
    unit = (1024 if found[3] else 1000) ** " kMGT".index(found[2].replace("K", "k") or " ")
    return int(float(found[1]) * unit)


def indices_of(option: str, text: str, what: str, count: int) -> list[int]:
    """The numbers of a list such as 0,3 or 0:4,7 or :, each below ``count``."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{0,9})(:?)(\d{0,9})", part.strip())
        if match is None or not part.strip():
            raise ConfigError(
                f"{option} {text!r} is not a list such as 0,3 or 0:4 (the second number of a range is not in it)."
            )
        first, colon, last = match.groups()
        begin = int(first or 0)
        end = begin + 1 if not colon else int(last) if last else count
        if begin >= end or end > count:
            raise ConfigError(
                f"{option} {part.strip()}: the input has the {what}s 0..{count - 1}, and a range ends after it begins."
            )
        found += range(begin, end)
    return found


def _pieces(frames: Any) -> Iterator[Any]:
    """The input in runs of samples of about PIECE bytes, so that a file larger than the memory can be read."""
    step = max(1, PIECE // max(1, frames[:1].nbytes))
    for begin in range(0, frames.shape[0], step):
        yield frames[begin : begin + step]


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    import numpy as np

    from netx_export.atomic import replacing

    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


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
