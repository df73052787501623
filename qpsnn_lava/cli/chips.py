"""``qpsnn map`` and ``chips``: from a netx file to cores."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from netx_export.errors import CapacityError, ConfigError
from qpsnn_lava.cli.console import JsonFlag, columns, command_line, print_json, screen, versions


def map_network(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.net...", help="Netx files; several are compared.", show_default=False)
    ],
    chip: Annotated[str | None, typer.Option(help="Name or TOML file of the chip (default: loihi2).")] = None,
    board: Annotated[str | None, typer.Option(help="Name of a board; it brings its chip and their number.")] = None,
    limit: Annotated[list[str] | None, typer.Option("--limit", metavar="NAME=VALUE", help="Replace one limit.")] = None,
    chips: Annotated[int | None, typer.Option(min=1, help="Chips on the board (default: 1, or the board's).")] = None,
    objective: Annotated[str, typer.Option(help="cores, traffic or balance.")] = "cores",
    free_tiles: Annotated[
        bool, typer.Option("--free-tiles", help="Any width, height, channels a slice: assumed legal.")
    ] = False,
    share_cores: Annotated[bool, typer.Option("--share-cores", help="Several slices a core: assumed legal.")] = False,
    sparse: Annotated[bool, typer.Option("--sparse", help="Dense layers without their zeros.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Recount everything independently.")] = False,
    place: Annotated[bool, typer.Option("--place", help="Also seat the cores on the mesh and count hops.")] = False,
    pareto: Annotated[bool, typer.Option("--pareto", help="Also the front of cores, traffic and busiest core.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the placement.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="mapping.json, report.html, layers.csv, cores.csv, plots.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Map a netx file onto a chip's cores (exit code 2 where it does not fit); with several files, compare what they take."""
    import time

    import mapping
    from mapping.details import traffic
    from netx_export import hdf5

    if board is not None:
        found = mapping.load_board(board, profile=chip, limits=limits_of(limit))
        target, room = found.chip, chips or found.chips
    else:
        target, room = mapping.load_chip(chip or "loihi2", limits=limits_of(limit)), chips or 1
    target = mapping.allow(target, free_tiles=free_tiles, share_cores=share_cores, sparse=sparse)
    if len(files) > 1:
        if check or place or pareto or objective != "cores":
            raise ConfigError("--check, --place, --pareto and --objective are of one file; give one FILE.net.")
        _compare(files, target, out, as_json)
        return
    network = hdf5.read(files[0])
    start = time.perf_counter()
    try:
        placed = mapping.map_network(network, target, objective=objective)
    except CapacityError as error:  # not even one neuron of a layer fits a core
        known = {**(error.partial or {}), "seconds": time.perf_counter() - start}
        if out is not None:
            _write_unmapped(out, files[0].name, network, known)
        if as_json:
            print_json(known)
        raise
    used = mapping.utilisation(network, placed, chips=room).to_dict()
    used["seconds"] = time.perf_counter() - start
    if check:
        mapping.require(network, placed)
    if place:
        seated = mapping.place(network, placed, seed=seed)
        placed = seated.mapping
        used["routing"] = {**asdict(seated.routing), "snake_hops": seated.snake.hops}
    used["messages"] = sum(map(sum, traffic(network, placed).messages))
    used["assumed_rate"] = mapping.ASSUMED_RATE
    if pareto:
        used["pareto"] = mapping.front_rows(mapping.front(network, placed.chip))
    if out is not None:
        _write_mapping(out, files[0].name, network, used, placed)
    if as_json:
        print_json(used)
    else:
        _print_mapping(used)
    if not used["fits"]:
        raise CapacityError(used["verdict"])


def _compare(files: list[Path], chip: Any, out: Path | None, as_json: bool) -> None:
    """Several files side by side, and the first at 8 bits before them where it has fewer."""
    import mapping
    from netx_export import hdf5
    from netx_export.atomic import write_text
    from qpsnn_lava.compare import labels
    from qpsnn_lava.report import compared_markdown

    names = labels(files)
    variants = {name: mapping.plan_layers(hdf5.read(file)) for name, file in zip(names, files, strict=True)}
    wide = tuple(mapping.at_bits(layer, 8) for layer in variants[names[0]])
    if wide != variants[names[0]]:
        variants = {f"{names[0]}, at 8 bits": wide, **variants}
    rows = [asdict(row) for row in mapping.compare(variants, chip)]
    made = {"chip": chip.name, "profile": chip.profile, "networks": rows, "evidence": list(chip.evidence)}
    if out is not None:
        write_text(out / "mapping.json", json.dumps(made, indent=1) + "\n")
        write_text(out / "mapping.md", compared_markdown(made))
    if as_json:
        print_json(made)
    else:
        table = columns("network", "cores", "at least", "neurons", "words", left=["network"])
        for row in rows:
            numbers = (row["cores"], row["lower_bound"], row["neurons"], row["synapse_words"])
            table.add_row(escape(row["name"]), *("no fit" if n is None else f"{n:,}" for n in numbers))
        console = screen()
        console.print(table)
        console.print(f"[dim]{escape(chip.profile)}; words: synapse words of 64 bits over all cores[/]")
        console.print(f"[dim]{escape(chip.evidence[0])}[/]")
    wrong = [row for row in rows if row["error"]]
    if wrong:
        raise CapacityError(f"{wrong[0]['name']}: {wrong[0]['error']}")


def chips(
    action: Annotated[str, typer.Argument(help="list or show.")] = "list",
    name: Annotated[str | None, typer.Argument(help="For show: a chip, a chip file or a board.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the chips and boards, or show every number of one with its unit, tag and source."""
    import mapping

    if action == "list" and name is None:
        names = {"chips": list(mapping.chip_names()), "boards": list(mapping.board_names())}
        if as_json:
            print_json(names)
        else:
            for title, entries in names.items():
                print(f"{title:<7} {'  '.join(entries)}")
        return
    if action != "show" or name is None:
        raise ConfigError("the words are: qpsnn chips list, or qpsnn chips show NAME.")
    board = mapping.load_board(name) if name in mapping.board_names() else None
    chip = board.chip if board else mapping.load_chip(name)
    if as_json:
        print_json(chip.to_dict() if board is None else {"board": board.name, "chips": board.chips, "chip": chip.to_dict()})
        return
    console = screen()
    for line in board.evidence if board else chip.evidence:
        console.print(escape(line))


def limits_of(limits: list[str] | None) -> dict[str, int]:
    found = {}
    for entry in limits or []:
        name, equals, value = entry.partition("=")
        if not equals or not value.strip().isdigit():
            raise ConfigError(f"--limit {entry!r} is not of the form NAME=WHOLE NUMBER, such as synapse_words=12000.")
        found[name.strip()] = int(value)
    return found


def _print_mapping(used: dict[str, Any]) -> None:
    titles = ("layer", "tile", "cores", "at least", "neurons", "axons in", "words", "binds")
    table = columns(*titles, left=["layer", "binds"])
    for row in used["layers"]:
        if not row["cores"]:
            continue
        tile = "x".join(map(str, reversed(row["tile"]))) if row["tile"] else str(row["neurons_per_core"])
        binding = f"{row['binding']} {row['binding_percent']:.0f} %" if row["binding"] else ""
        numbers = (row["cores"], row["lower_bound"], row["neurons_tile"], row["axon_in"], row["synapse_words"])
        table.add_row(escape(row["name"]), tile, *(f"{n:,}" for n in numbers), binding)
    console = screen()
    console.print(table)
    console.print("[dim]tile (C x H x W), neurons: of the largest core; axons in, words: mean[/]")
    console.print(f"\n{escape(used['verdict'])}")
    console.print(f"lower bound {used['lower_bound']} cores")
    console.print(
        f"traffic: {used['messages']:,.0f} spikes a step arrive at cores [dim](assumed: {used['assumed_rate']} a neuron)[/]"
    )
    if "routing" in used:
        hops, snake = used["routing"]["hops"], used["routing"]["snake_hops"]
        console.print(f"placed on the mesh: {hops:,.0f} hops a step (in the order of the layers: {snake:,.0f})")
    if "pareto" in used:
        _print_front(used["pareto"])
    for line in used["evidence"]:
        if "assumed legal" in line:
            console.print(f"[yellow]{escape(line)}[/]")
    console.print(f"[dim]{escape(used['evidence'][0])}[/]")


def _print_front(plans: list[dict[str, float]]) -> None:
    table = columns("cores", "messages", "busiest core", left=[])
    for plan in plans:
        table.add_row(f"{plan['cores']:,}", f"{plan['messages']:,.0f}", f"{plan['operations']:,.0f}")
    console = screen()
    console.print("\nNone of these beats another in all three (one slice a core):")
    console.print(table)
    console.print("[dim]messages: spikes that arrive at cores, a step; busiest core: its synaptic operations, a step[/]")


def _write_mapping(folder: Path, name: str, network: Any, used: dict[str, Any], placed: Any) -> None:
    import mapping
    from netx_export.atomic import write_text
    from qpsnn_lava.plots import save_mapping
    from qpsnn_lava.report import csv_table

    details = mapping.describe(network, placed)
    made = {"utilisation": used, "details": details, "mapping": placed.to_dict()}
    write_text(folder / "mapping.json", json.dumps(made, indent=1) + "\n")
    write_text(folder / "layers.csv", csv_table(used["layers"]))
    write_text(folder / "cores.csv", csv_table(details["core_use"]))
    _write_page(folder, name, network, used, details)
    save_mapping({**used, **details}, folder)


def _write_unmapped(folder: Path, name: str, network: Any, known: dict[str, Any]) -> None:
    """What is known of a network that has no mapping; the tables and plots of one that stood here before go."""
    from netx_export.atomic import write_text
    from qpsnn_lava.report import MAPPING_PLOTS

    made = {"utilisation": known, "details": None, "mapping": None}
    write_text(folder / "mapping.json", json.dumps(made, indent=1) + "\n")
    _write_page(folder, name, network, known, {})
    for old in ("layers.csv", "cores.csv", *(f"{plot}.png" for plot in MAPPING_PLOTS)):
        (folder / old).unlink(missing_ok=True)


def _write_page(folder: Path, name: str, network: Any, used: dict[str, Any], details: dict[str, Any]) -> None:
    from netx_export.atomic import write_text
    from qpsnn_lava.page import of_mapping, page
    from qpsnn_lava.plots import weight_rows

    shown = of_mapping(name, command_line(), used, details, weight_rows(network), versions())
    write_text(folder / "report.html", page(shown))
