"""``qpsnn map`` and ``chips``: from a netx file to cores."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from netx_export.errors import CapacityError, ConfigError
from qpsnn_lava.cli.console import JsonFlag, NetFile, columns, print_json, screen


def map_network(
    file: NetFile,
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
    seed: Annotated[int, typer.Option(min=0, help="Of the placement.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="mapping.json, layers.csv and cores.csv.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Map a netx file onto a chip's cores (exit code 2 where it does not fit)."""
    import time

    import mapping
    from netx_export import hdf5

    network = hdf5.read(file)
    if board is not None:
        found = mapping.load_board(board, profile=chip, limits=limits_of(limit))
        target, room = found.chip, chips or found.chips
    else:
        target, room = mapping.load_chip(chip or "loihi2", limits=limits_of(limit)), chips or 1
    start = time.perf_counter()
    try:
        placed = mapping.map_network(
            network, target, free_tiles=free_tiles, share_cores=share_cores, sparse=sparse, objective=objective
        )
    except CapacityError as error:  # not even one neuron of a layer fits a core
        if as_json:
            print_json(error.partial or {"chip": target.name, "profile": target.profile, "fits": False, "verdict": str(error)})
        raise
    used = mapping.utilisation(network, placed, chips=room).to_dict()
    used["seconds"] = time.perf_counter() - start
    if check:
        mapping.require(network, placed)
    if place:
        seated = mapping.place(network, placed, seed=seed)
        placed = seated.mapping
        used["routing"] = {**asdict(seated.routing), "snake_hops": seated.snake.hops}
    if out is not None:
        _write_mapping(out, used, placed, [row.to_row() for row in mapping.core_rows(network, placed)])
    if as_json:
        print_json(used)
    else:
        _print_mapping(used)
    if not used["fits"]:
        raise CapacityError(used["verdict"])


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
    console.print("[dim]tile (C x H x W), neurons, axons in and words: of a layer's largest core[/]")
    console.print(f"\n{escape(used['verdict'])}")
    console.print(f"lower bound {used['lower_bound']} cores")
    if "routing" in used:
        hops, snake = used["routing"]["hops"], used["routing"]["snake_hops"]
        console.print(f"placed on the mesh: {hops:,.0f} hops a step (in the order of the layers: {snake:,.0f})")
    for line in used["evidence"]:
        if "assumed legal" in line:
            console.print(f"[yellow]{escape(line)}[/]")
    console.print(f"[dim]{escape(used['evidence'][0])}[/]")


def _write_mapping(folder: Path, used: dict[str, Any], placed: Any, cores: list[dict[str, Any]]) -> None:
    import csv
    import io

    from netx_export.atomic import write_text

    def table(rows: list[dict[str, Any]]) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    write_text(folder / "mapping.json", json.dumps({"utilisation": used, "mapping": placed.to_dict()}, indent=1) + "\n")
    write_text(folder / "layers.csv", table(used["layers"]))
    write_text(folder / "cores.csv", table(cores))
