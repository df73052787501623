from __future__ import annotations

from pathlib import Path

import pytest

from mapping.chip import STATEMENT, Chip, chip_from_dict, chip_names, load_chip
from netx_export.errors import ConfigError, FormatError, MissingError

# Public limits of a core, with how far each can be trusted (loihi-mapping notes, section 1).
LIMITS = {
    "loihi1": {
        "cores_per_chip": (128, "published"),
        "neurons": (1024, "published"),
        "axon_in": (4096, "published"),
        "axon_out": (4096, "published"),
        "synapse_words": (16384, "published"),
        "list_words": (256, "source"),
    },
    "loihi2": {
        "cores_per_chip": (120, "source"),
        "neurons": (4095, "inferred"),
        "neuron_groups": (8, "inferred"),
        "axon_in": (16000, "inferred"),
        "axon_map": (16000, "inferred"),
        "synapse_words": (16000, "source"),
        "pool": (20000, "inferred"),
    },
    "loihi2-2022": {"synapse_words": (12000, "source"), "neurons": (4095, "inferred"), "cores_per_chip": (120, "source")},
}


def packaged(name: str) -> Path:
    import mapping

    return Path(mapping.__file__).parent / "chips" / f"{name}.toml"


@pytest.mark.parametrize("name", LIMITS)
def test_limits_and_tags_are_the_public_ones(name: str) -> None:
    chip = load_chip(name)
    for resource, (value, tag) in LIMITS[name].items():
        assert (chip.limit(resource).value, chip.limit(resource).tag) == (value, tag), resource


def test_names() -> None:
    assert set(LIMITS) <= set(chip_names())
    assert list(chip_names()) == sorted(chip_names())


@pytest.mark.parametrize("name", chip_names())
def test_every_number_carries_its_evidence(name: str) -> None:
    chip = load_chip(name)
    assert chip.name == chip.profile == name
    assert chip.evidence[0] == STATEMENT
    for entry in (*chip.limits, *chip.parameters):
        assert entry.unit and entry.source and entry.tag in ("published", "source", "inferred", "assumed")
        assert any(line.startswith(f"{entry.name} = {entry.value} ") and f"[{entry.tag}]" in line for line in chip.evidence)


@pytest.mark.parametrize("name", chip_names())
def test_round_trip(name: str) -> None:
    chip = load_chip(name)
    again = chip_from_dict(chip.to_dict())
    assert again == chip and hash(again) == hash(chip)


def test_the_profiles_of_loihi2_differ_only_where_they_should() -> None:
    new, old = load_chip("loihi2"), load_chip("loihi2-2022")
    assert {limit.name for limit in new.limits if limit not in old.limits} == {"synapse_words"}
    assert {p.name for p in new.parameters if p not in old.parameters} == {"dense_split"}


def test_limits_can_be_changed_and_are_tagged() -> None:
    chip = load_chip("loihi2", {"synapse_words": 9000, "cores_per_chip": 128})
    assert (chip.core_limits["synapse_words"], chip.cores_per_chip, chip.core_limits["neurons"]) == (9000, 128, 4095)
    assert chip.limit("synapse_words").tag == "assumed" and chip.limit("synapse_words").source == "given by the caller"
    assert chip.profile == "loihi2 with cores_per_chip=128, synapse_words=9000"
    assert chip_from_dict(chip.to_dict()) == chip


def test_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(packaged("loihi2").read_text().replace('name = "loihi2"', 'name = "mine"').replace("4095", "8192"))
    chip = load_chip(path)
    assert isinstance(chip, Chip) and (chip.name, chip.core_limits["neurons"]) == ("mine", 8192)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"neuron": 3}, r"loihi2 has no limit 'neuron'; it has axon_in, axon_map, cores_per_chip, .*pool"),
        ({"neurons": 0}, r"limit neurons is 0; it must be a whole number of at least 1"),
        ({"neurons": True}, r"limit neurons is True"),
        ({"neurons": 1.5}, r"limit neurons is 1\.5"),
    ],
)
def test_bad_limits(limits: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_chip("loihi2", limits)


def test_unknown_chip() -> None:
    with pytest.raises(
        MissingError, match=r"there is no chip 'loihi3' and no such file; known are loihi1, loihi2, loihi2-2022"
    ):
        load_chip("loihi3")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('summary = "', 'colour = "red"\nsummary = "', r"bad\.toml: colour: unknown key"),
        ("[limits.neurons]", "[limits.neurones]", r"bad\.toml: limits\.neuron(s: is missing|es: unknown key)"),
        ("value = 4095", 'value = "4095"', r"bad\.toml: limits\.neurons\.value: Input should be a valid integer"),
        ("value = 4095", "value = 0", r"bad\.toml: limits\.neurons\.value: .*greater than or equal to 1"),
        ("value = 4095", "value = 4095.0", r"bad\.toml: limits\.neurons\.value: .*integer"),
        ("value = 4095", "value = true", r"bad\.toml: limits\.neurons\.value: .*integer"),
        (
            'tag = "inferred"',
            'tag = "rumour"',
            r"bad\.toml: limits\.neurons\.tag: .*'published', 'source', 'inferred' or 'assumed'",
        ),
        ('value = "even"', 'value = "odd"', r"bad\.toml: parameters\.dense_split\.value: .*'even' or 'doubling'"),
        ('model = "loihi2"', 'model = "loihi9"', r"bad\.toml: model: .*'loihi1'"),
        ('model = "loihi2"', "", r"bad\.toml: model: the key 'model' is missing; it is 'loihi1' or 'loihi2'"),
        ('name = "loihi2"', "name = ", r"bad\.toml: not a TOML file"),
    ],
)
def test_bad_files_name_the_field_and_the_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = packaged("loihi2").read_text()
    assert old in text
    path = tmp_path / "bad.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(FormatError, match=message):
        load_chip(path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    path.write_bytes(b"#" * 300_000)
    with pytest.raises(FormatError, match=r"huge\.toml: 300000 bytes; a chip file has at most 262144"):
        load_chip(path)


@pytest.mark.parametrize("data", [None, 3, [], "loihi2"])
def test_not_a_table(data: object) -> None:
    with pytest.raises(FormatError, match="chip: "):
        chip_from_dict(data)
