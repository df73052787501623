from __future__ import annotations

from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from netx_export.errors import ConfigError, FormatError
from qpsnn_lava.config import (
    ConvLayer,
    Data,
    DenseLayer,
    Experiment,
    PoolLayer,
    experiment_names,
    free_layers,
    load_experiment,
    prunable_layers,
    to_toml,
    weight_bits,
    weighted_layers,
    width_of,
)
from qpsnn_lava.data import NAMES

SMALL = """
name = "small"
[data]
name = "digits"
[[network]]
type = "conv"
channels = 8
[[network]]
type = "pool"
[[network]]
type = "dense"
units = 20
bits = 2
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_built_in_experiments() -> None:
    assert experiment_names() == (
        "cifar10-dvs-vggsnn",
        "cifar10-vgg16",
        "digits",
        "fashion-mnist",
        "fashion-mnist-best",
        "fashion-mnist-saccade",
    )
    for name in experiment_names():
        experiment = load_experiment(name)
        assert experiment.name == name
        assert experiment.name.startswith(experiment.data.name.replace("cifar-10", "cifar10"))
        assert experiment.quantise.bits == 4
        assert experiment.prune.keep == 0.5 or isinstance(experiment.prune.keep, tuple)
        assert Experiment.model_validate(tomli.loads(to_toml(experiment))) == experiment


def test_defaults(small: Path) -> None:
    experiment = load_experiment(small)
    assert experiment == Experiment(
        name="small", data=Data(name="digits"), network=(ConvLayer(channels=8), PoolLayer(), DenseLayer(units=20, bits=2))
    )
    assert (experiment.seed, experiment.neuron.current_decay, experiment.neuron.voltage_decay) == (0, 4096, 2048)
    assert (experiment.prune.eps, experiment.lava.timeout, experiment.map.chip) == (1e-6, 600.0, "loihi2")
    with pytest.raises(ValidationError, match="frozen"):
        experiment.seed = 1  # type: ignore[misc, unused-ignore]


def test_weight_bits(small: Path) -> None:
    experiment = load_experiment(small)
    assert [layer.type for layer in weighted_layers(experiment)] == ["conv", "dense"]
    assert weight_bits(experiment) == (8, 2, 8)
    assert weight_bits(load_experiment(small, ["network.0.bits=3", "quantise.last_bits=5"])) == (3, 2, 5)
    third = load_experiment(small, ['network=[{type="dense", units=3}, {type="dense", units=3}]', "quantise.first_bits=6"])
    assert weight_bits(third) == (6, 4, 8)


def test_bits_under_a_budget(small: Path) -> None:
    layers = (
        'network=[{type="dense", units=3}, {type="dense", units=3}, {type="dense", units=3, bits=2}, {type="dense", units=4}]'
    )
    experiment = load_experiment(small, [layers, "quantise.bits=auto", "quantise.budget_mb=0.5"])
    assert weight_bits(experiment) == (8, 8, 2, 8, 8) and free_layers(experiment) == (1, 3)
    assert Experiment.model_validate(tomli.loads(to_toml(experiment))) == experiment


def test_overrides(small: Path) -> None:
    experiment = load_experiment(
        str(small),
        [
            "prune.keep=0.4",
            " train.epochs = 3 ",
            "data.coding=rate",
            'name="other"',
            "network.2.units=7",
            "neuron.threshold=2",
            "train.epochs=4",
        ],
    )
    assert (experiment.prune.keep, experiment.train.epochs, experiment.data.coding, experiment.name) == (
        0.4,
        4,
        "rate",
        "other",
    )
    assert experiment.network[2] == DenseLayer(units=7, bits=2)
    assert isinstance(experiment.neuron.threshold, float)
    assert load_experiment(small, ["prune.keep=[0.5, 1]"]).prune.keep == (0.5, 1.0)


def test_an_override_of_keep_or_plan_takes_the_place_of_the_other(tmp_path: Path) -> None:
    assert load_experiment("cifar10-vgg16", ["prune.keep=0.4"]).prune.keep == 0.4
    assert load_experiment("cifar10-vgg16", ["prune.keep=0.4", "prune.plan=vgg16-45-70"]).prune.keep[7] == 153 / 512  # type: ignore[index]
    file = tmp_path / "both.toml"
    file.write_text(SMALL + '[prune]\nkeep = 0.4\nplan = "vgg16-45-70"\n')
    with pytest.raises(ConfigError, match=r'both\.toml: prune\.plan is "vgg16-45-70", and prune\.keep is given too'):
        load_experiment(file)
    assert load_experiment(file, ["prune.keep=0.3"]).prune.keep == 0.3


def test_a_budget_takes_the_place_of_keep(small: Path, tmp_path: Path) -> None:
    experiment = load_experiment(small, ["prune.keep=0.4", "prune.budget_words=900"])
    assert experiment.prune.keep is None and experiment.prune.budget == ("words", 900.0)
    again = tmp_path / "again.toml"
    again.write_text(to_toml(experiment), "utf-8")
    assert load_experiment(again) == experiment and "keep" not in again.read_text("utf-8")
    assert load_experiment(again, ["prune.keep=0.3"]).prune.budget is None
    assert load_experiment(again, ["prune.budget_mb=0.3"]).prune.budget == ("mb", 0.3)
    assert load_experiment(small).prune.budget is None


def test_depthwise_layers_have_no_share_of_their_own(small: Path) -> None:
    depthwise = "network.1={type='conv', channels=8, groups=8}"
    experiment = load_experiment(small, [depthwise, "prune.keep=[0.5, 0.25]"])
    assert len(weighted_layers(experiment)) == len(weight_bits(experiment)) - 1 == 3
    assert [width_of(layer) for layer in prunable_layers(experiment)] == [8, 20]
    whole = load_experiment(small, ["network.1={type='conv', channels=4, groups=2}", "prune.keep=[1, 0.9, 0.5]"])
    assert len(prunable_layers(whole)) == 3  # 0.9 of 4 channels are all of them
    first = load_experiment(small, ["network.0.channels=2", "network.0.groups=2"])  # of an input with two channels
    assert [width_of(layer) for layer in prunable_layers(first)] == [20]


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_bits = st.none() | st.integers(2, 8)
_convs = st.builds(
    ConvLayer,
    channels=st.integers(1, 99),
    kernel=st.integers(3, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    bits=_bits,
)
_pools = st.builds(PoolLayer, kernel=st.integers(2, 4))
_denses = st.builds(DenseLayer, units=st.integers(1, 999), bits=_bits)
_positive = st.floats(0, exclude_min=True, allow_infinity=False)


@st.composite
def _experiments(draw: st.DrawFn) -> Experiment:
    network = (
        *draw(st.lists(_convs | _pools, max_size=3)),
        *draw(st.lists(_denses, min_size=1, max_size=2)),
    )
    shares = st.floats(0, 1, exclude_min=True)
    count = sum(layer.type != "pool" for layer in network)
    keep = draw(shares | st.lists(shares, min_size=count, max_size=count).map(tuple))
    base = load_experiment("digits")
    return Experiment(
        name=draw(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")),
        seed=draw(st.integers(0, 2**63 - 1)),
        data=base.data.model_copy(update={"folder": draw(_text), "steps": draw(st.integers(1, 1024))}),
        network=network,
        neuron=base.neuron.model_copy(update={"threshold": draw(_positive)}),
        train=base.train.model_copy(update={"learning_rate": draw(st.floats(1e-12, 10))}),
        prune=base.prune.model_copy(
            update={"keep": keep, "eps": draw(_positive), "widths": draw(st.sampled_from(["any", "chip"]))}
        ),
        map=base.map.model_copy(update={"chip": draw(_text.filter(bool))}),
    )


@given(_experiments())
def test_to_toml_reads_back_equal(experiment: Experiment) -> None:
    text = to_toml(experiment)
    assert Experiment.model_validate(tomli.loads(text)) == experiment
    assert tomli.loads(text.replace("\n", "\r\n")) == tomli.loads(text)


def test_to_toml_as_a_file(small: Path, tmp_path: Path) -> None:
    experiment = load_experiment(small, ["prune.keep=[0.25, 1.0]", 'data.folder="a \\"b\\" \\\\ c\\u0001\\u007f é\\n"'])
    again = tmp_path / "again.toml"
    again.write_text(to_toml(experiment), "utf-8")
    assert load_experiment(again) == experiment
    assert "[[network]]" in again.read_text("utf-8")
    assert "eps = 1e-06" in again.read_text("utf-8")


_SETS = ", ".join(f'"{name}"' for name in NAMES)
_NETWORKS = '"vgg16", "vggsnn", "conv28-small", "conv28-medium", "conv28-large", "mlp"'
_NUMBER = "a number above 0 and at most 1, or a list of such numbers, one for each conv and dense layer"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # unknown keys
        (
            "prune.kep=0.4",
            "prune.kep is unknown; [prune] has criterion, keep, plan, budget_parameters, budget_mb, budget_ops, ",
        ),
        ("prun.keep=0.4", "prun is unknown; an experiment has name, seed, data, network, "),
        ("network.0.chanels=4", "network[0].chanels is unknown; such a layer has type, channels, kernel, "),
        ("network.2.stride=4", "network[2].stride is unknown; such a layer has type, units, bits."),
        # wrong types
        ('data.steps="4"', 'data.steps is "4"; it must be a whole number in 1..1024.'),
        ("data.steps=4.0", "data.steps is 4.0; it must be a whole number in 1..1024."),
        ("neuron.voltage_decay=true", "neuron.voltage_decay is true; it must be a whole number in 0..4096."),
        ("data.folder=3", "data.folder is 3; it must be a string."),
        ("map.chip=3", "map.chip is 3; it must be a string that is not empty."),
        ("prune=3", "prune is 3; it must be a section."),
        ("prune.scope.x=3", 'prune.scope is a section; it must be one of "layer", "global".'),
        (
            "network=3",
            "network is 3; it must be a list of 1..256 layers, each a [[network]] section, or one [network] section with a name.",
        ),
        ("network=[3]", "network[0] is 3; it must be a section."),
        ("train.batch=1979-05-27", "train.batch is 1979-05-27; it must be a whole number in 1..65536."),
        ("prune.keep=true", f"prune.keep is true; it must be {_NUMBER}."),
        ('prune.keep=[0.5,"1"]', f"prune.keep is [0.5, '1']; it must be {_NUMBER}."),
        ("data={}", f"data.name is missing; it must be one of {_SETS}."),
        ("network.0={}", 'network[0].type is missing; it must be one of "conv", "pool", "dense".'),
        ('network.0={type="dense"}', "network[0].units is missing; it must be a whole number in 1..1048576."),
        # out of range
        ("prune.keep=1.5", f"prune.keep is 1.5; it must be {_NUMBER}."),
        ("prune.keep=0", f"prune.keep is 0; it must be {_NUMBER}."),
        ("prune.keep=[0.5,2]", f"prune.keep is [0.5, 2]; it must be {_NUMBER}."),
        ("quantise.bits=1", 'quantise.bits is 1; it must be a whole number in 2..8, or "auto".'),
        ("quantise.bits=word", 'quantise.bits is "word"; it must be a whole number in 2..8, or "auto".'),
        ("quantise.segments=5", "quantise.segments is 5; it must be a whole number in 1..4."),
        ("quantise.percentile=0.5", "quantise.percentile is 0.5; it must be a number above 0.5 and at most 1."),
        ("quantise.per=row", 'quantise.per is "row"; it must be one of "layer", "channel", "channel_shift".'),
        ("network.2.bits=9", "network[2].bits is 9; it must be a whole number in 2..8."),
        ("data.steps=1025", "data.steps is 1025; it must be a whole number in 1..1024."),
        ("train.epochs=-1", "train.epochs is -1; it must be a whole number in 0..100000."),
        ("seed=9223372036854775808", "seed is 9223372036854775808; it must be a whole number in 0..9223372036854775807."),
        ("neuron.threshold=nan", "neuron.threshold is nan; it must be a number above 0."),
        ("neuron.threshold=inf", "neuron.threshold is inf; it must be a number above 0."),
        ("train.learning_rate=11", "train.learning_rate is 11; it must be a number above 0 and at most 10."),
        ("train.label_smoothing=1.0", "train.label_smoothing is 1.0; it must be a number of at least 0 and below 1."),
        ("train.weight_decay=2.0", "train.weight_decay is 2.0; it must be a number from 0 to 1."),
        ('map.chip=""', 'map.chip is ""; it must be a string that is not empty.'),
        ("network=[]", "network is []; it must be a list of 1..256 layers"),
        ('name="../up"', 'name is "../up"; it must be 1..64 letters, digits, dots, dashes or underscores'),
        # words
        (
            "data.name=fashion_mnist",
            f"data.name is \"fashion_mnist\"; it must be one of {_SETS}; did you mean 'fashion-mnist'?",
        ),
        (
            "prune.criterion=svd",
            'prune.criterion is "svd"; it must be one of "svs", "sca", "l1", "rate", "random", "hrank"; did you mean \'svs\'?',
        ),
        ("prune.budget_words=0.5", "prune.budget_words is 0.5; it must be a whole number in 1..1000000000000."),
        ("prune.budget_mb=0", "prune.budget_mb is 0; it must be a number above 0."),
        ("prune.order=qq", 'prune.order is "qq"; it must be one of "qp", "pq", "together"'),
        ("prune.rounds=0", "prune.rounds is 0; it must be a whole number in 1..32."),
        ("prune.eps_relative=1", "prune.eps_relative is 1; it must be true or false."),
        ("prune.widths=chips", 'prune.widths is "chips"; it must be one of "any", "chip"; did you mean \'chip\'?'),
        (
            "network.0.type=covn",
            'network[0].type is "covn"; it must be one of "conv", "pool", "dense"; did you mean \'conv\'?',
        ),
        # networks and plans by name
        ("network={}", f"network.name is missing; it must be one of {_NETWORKS}."),
        ('network={name="vgg17"}', f"network.name is \"vgg17\"; it must be one of {_NETWORKS}; did you mean 'vgg16'?"),
        ('network={name="vgg16", width=0}', "network.width is 0; it must be a number above 0 and at most 8."),
        ('network={name="vgg16", width={}}', "network.width is a section; it must be a number above 0 and at most 8."),
        ('network={name="vggsnn", pool="max"}', 'network.pool is "max"; it must be one of "stride", "sum".'),
        ('network={name="vgg16", hiden=[3]}', "network.hiden is unknown; [network] has name, width, pool."),
        ('network={name="mlp", hiden=[3]}', "network.hiden is unknown; [network] has name, hidden; did you mean 'hidden'?"),
        ('network={name="mlp"}', "network.hidden is missing; it must be a list of 1..256 whole numbers, the neurons of each"),
        ('network={name="mlp", hidden=[]}', "network.hidden is []; it must be a list of 1..256 whole numbers, the neurons of"),
        ('network={name="mlp", hidden=[4, 0]}', "network.hidden[1] is 0; it must be a whole number in 1..1048576."),
        ("prune.plan=vgg16", 'prune.plan is "vgg16"; it must be one of "vgg16-45-51", '),
        ("network.0.type=[]", 'network[0].type is []; it must be one of "conv", "pool", "dense".'),
    ],
)
def test_bad_values_name_the_override_and_the_field(small: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_experiment(small, ["train.epochs=2", override])
    assert f"--set {override!r}: {message}" in str(raised.value)
    assert "\n" not in str(raised.value)


_SCALARS = ["vgg16-49-80", "3", "-1", "0.5", "nan", "true", "conv", "1e400", "1979-05-27", "07:32:00"]
_NESTED = [
    "[]",
    "[1]",
    "[[]]",
    "[{}]",
    "[true]",
    '["pool"]',
    "{}",
    "{a=1}",
    "{type=3}",
    '{type="conv"}',
    "{name={}}",
    '[{type="pool",kernel=2}]',
    '{name="mlp",hidden=[4,3]}',
    '{name="vgg16"}',
]
_VALUES = st.sampled_from([*_SCALARS, *_NESTED, "1" + "0" * 400])
_KEYS = st.sampled_from(
    ["network", "prune", "data", "keep", "name", "type", "channels", "bits", "0", "1", "7", "x", "map", "steps"]
) | st.sampled_from(["plan", "width"])


@given(st.lists(st.tuples(st.lists(_KEYS, min_size=1, max_size=3), _VALUES), min_size=1, max_size=3))
def test_no_value_anywhere_leads_to_a_traceback(cases: list[tuple[list[str], str]]) -> None:
    overrides = [f"{'.'.join(path)}={value}" for path, value in cases]
    try:
        experiment = load_experiment("digits", overrides)
    except ConfigError as error:
        assert "--set" in str(error) and "\n" not in str(error)
    else:
        assert Experiment.model_validate(tomli.loads(to_toml(experiment))) == experiment


def test_bad_values_name_the_file(small: Path) -> None:
    small.write_text(SMALL + "[prune]\nkepe = 0.4\n")
    with pytest.raises(ConfigError, match=r"small\.toml: prune\.kepe is unknown; \[prune\] has .*did you mean 'keep'\?"):
        load_experiment(small, ["prune.keep=0.4"])
    small.write_text(SMALL.replace('type = "pool"', "kernel = 2"))
    with pytest.raises(ConfigError, match=r"small\.toml: network\[1\]\.type is missing"):
        load_experiment(small, ["network.1.kernel=4"])
    small.write_text('name = "empty"')
    with pytest.raises(ConfigError, match=r"small\.toml: data is missing; it must be a section"):
        load_experiment(small)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["prune.keep=[0.5,0.5,0.5]"],
            r"prune\.keep lists 3 shares, but the network has 2 conv and dense layers; give one for each",
        ),
        (["prune.keep=[0.5,0.5]", "prune.scope=global"], r'prune\.keep lists a share per layer, but prune\.scope is "global"'),
        (
            ['prune={keep=0.5, plan="vgg16-49-80"}'],
            r'prune\.plan is "vgg16-49-80", and prune\.keep is given too; a plan is a list of shares: leave one out\.',
        ),
        (
            ["prune.plan=vgg16-49-80", "prune.scope=global"],
            r'prune\.plan lists a share per layer, but prune\.scope is "global"',
        ),
        (
            ["prune.plan=vgg16-49-80"],
            r'prune\.plan "vgg16-49-80" has a share for each of 13 conv and dense layers, but the network has 2; take it .*keep\.$',
        ),
        (
            ["quantise.bits=auto"],
            r'quantise\.bits is "auto", but no budget is given; give one of quantise\.budget_mb, quantise\.budget_words and',
        ),
        (
            ["quantise.bits=auto", "quantise.budget_mb=1", "quantise.budget_cores=2"],
            r'quantise\.bits is "auto", but quantise\.budget_mb and quantise\.budget_cores are given; give one',
        ),
        (["quantise.budget_words=9"], r'quantise\.budget_words is given, but quantise\.bits is 4; a budget goes with "auto"'),
        (
            ["quantise.gamma=none", "quantise.n2uq=true"],
            r'quantise\.gamma is "none", which does not rescale, so quantise\.n2uq has no meaning; leave one out',
        ),
        (["quantise.gamma=none", "quantise.per=channel"], r'so quantise\.per = "channel" has no meaning; leave one out'),
        (
            ["prune={keep=0.5, budget_words=9}"],
            r"prune\.budget_words and prune\.keep are given; each says how much stays: leave one",
        ),
        (["prune={budget_mb=0.5, budget_words=9}"], r"prune\.budget_mb and prune\.budget_words are given; each says"),
        (['prune={plan="vgg16-49-80", budget_words=9}'], r"prune\.plan and prune\.budget_words are given; each says"),
        (
            ["prune.budget_words=9", "prune.scope=global"],
            r'prune\.budget_words is given, but prune\.scope is "global"; a budget chooses',
        ),
        (
            ["prune.budget_cores=9", "prune.widths=chip"],
            r'prune\.budget_cores is given, but prune\.widths is "chip"; .*leave prune\.widths',
        ),
        (
            ["network.1={type='conv', channels=4, groups=2}"],
            r"network\[1\] has 2 groups, and \[prune\] would cut it; only depthwise and ungrouped layers, .* take groups = 1",
        ),
        (
            ["network.1={type='conv', channels=4, groups=2}", "prune.keep=[0.5, 1, 0.5]"],
            r"network\[1\] has 2 groups, and \[prune\] would cut the layer before it",
        ),
        (
            ["network.1={type='conv', channels=8, groups=8}", "prune.keep=[0.5, 1, 0.5]"],
            r"prune\.keep lists 3 shares, but the network has 2 conv and dense layers beside 1 depthwise; give one for each",
        ),
        (["network.0.groups=3"], r"network\[0\]\.groups is 3, which does not divide its 8 channels"),
        (["network.0.kernel=1"], r"network\[0\]\.padding is 1; it must be below the kernel of 1"),
        (
            ['network.0={type="dense",units=4}'],
            r"network\[1\] is a pool layer after a dense one, which has no height and width",
        ),
    ],
)
def test_contradictions(small: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_experiment(small, overrides)
    assert "small.toml with --set " in str(raised.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prune.keep", "is not of the form section.key=value, such as prune.keep=0.4"),
        ("=3", "is not of the form section.key=value"),
        ("a..b=3", "is not of the form section.key=value"),
        ('"prune".keep=3', "is not of the form section.key=value"),
        ("prune.keep=", "right of the = stands no TOML value; write a number"),
        ("prune.keep=O.4", "right of the = stands no TOML value"),
        ("prune.keep=0.4\nseed=3", "right of the = stands no TOML value"),
        ("seed=" + "1" * 5000, "right of the = stands no TOML value"),
        ("seed=" + "[" * 5000, "right of the = stands no TOML value"),
        ("name.x=3", "name is a single value, so it has no 'x' in it"),
        ("network.3.bits=3", r"network has the entries 0\.\.2, not '3'"),
        ("network.bits=3", r"network has the entries 0\.\.2, not 'bits'"),
    ],
)
def test_bad_overrides(small: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_experiment(small, [override])
    assert str(raised.value).startswith("--set ")
    assert len(str(raised.value)) < 300


def test_unknown_experiment(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"no experiment 'digit': no file of that name, and built in are cifar10-.*, digits, fashion-mnist.*; did you mean 'digits'\?",
    ):
        load_experiment("digit")
    with pytest.raises(
        ConfigError,
        match=r"no experiment '.*none\.toml': no file of that name, and built in are cifar10-.*, fashion-mnist-saccade\.$",
    ):
        load_experiment(tmp_path / "none.toml")


def test_files_that_are_no_experiment(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for content, message in (
        (b"name = = 3", r"x\.toml is not TOML: .*line 1"),
        (b'name = "a"\nname = "b"', r"x\.toml is not TOML"),
        (b"seed = " + b"1" * 5000, r"x\.toml is not TOML"),
        (b"\xff\xfe", r"x\.toml is not TOML: it is not UTF-8"),
        (b"#" * (1 << 20) + b"#", r"x\.toml is larger than 1048576 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=message):
            load_experiment(path)
    with pytest.raises(FormatError, match=r"cannot be read as an experiment \(.*[Dd]irectory"):
        load_experiment(tmp_path)
    with pytest.raises(FormatError, match=r"cannot be read as an experiment \(embedded null byte"):
        load_experiment("a\0b")
