"""The experiment file: TOML, parsed once into a frozen :class:`Experiment`, strictly.

Nothing is converted in silence (a string is not a number, a fraction is not a whole number; only a whole number may stand
for a real one), and an unknown key is an error that names its nearest neighbour.  Only this module and :mod:`qpsnn_lava.space`
know pydantic and TOML.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import tomli
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from netx_export.errors import ConfigError, FormatError
from qpsnn_lava.data.augment import Augment, allowed_augments
from qpsnn_lava.data.catalogue import EVENT_NAMES
from qpsnn_lava.networks import ConvName, PlanName, Pool, conv_layers, mlp_layers, plan_shares

MAX_FILE_BYTES = 1 << 20
MAX_LAYERS = 256
MAX_BITS = 8


def _array(value: object) -> object:
    """TOML arrays are lists; frozen sections hold tuples."""
    return tuple(value) if isinstance(value, list) else value


Bits: TypeAlias = Annotated[int, Field(ge=2, le=8)]
Decay: TypeAlias = Annotated[int, Field(ge=0, le=4096)]
Epochs: TypeAlias = Annotated[int, Field(ge=0, le=100_000)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=10_000_000)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Ratio: TypeAlias = Annotated[float, Field(gt=0, le=1)]
WidthUnit = Literal["parameters", "mb", "ops", "words", "cores"]
CriterionName = Literal["svs", "sca", "l1", "rate", "random", "hrank"]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Data(_Section):
    """[data]: which images, and how they become spikes.

    Args:
        name: the built-in data set (docs/data.md).
        folder: where its files are; "" for their usual place.
        coding: "direct" (graded pixels, the same in every step) or "rate" (Bernoulli spikes) of images; "events" (counts) of a set
            of events.
        steps: T, time steps per sample, 1..1024.
        input_bits: bits of a graded pixel or of a count of events, 1..8 (direct coding and events).
        train_images: train on so many of the training images, each class in its proportion, drawn once by the seed; left out: on all.
    """

    name: Literal[
        "digits",
        "fashion-mnist",
        "fashion-mnist-saccade",
        "cifar-10",
        "cifar-100",
        "tiny-imagenet",
        "n-mnist",
        "dvs-gesture",
        "cifar10-dvs",
        "shd",
    ]
    folder: str = ""
    coding: Literal["direct", "rate", "events"] = "direct"
    steps: Annotated[int, Field(ge=1, le=1024)] = 4
    input_bits: Annotated[int, Field(ge=1, le=8)] = 4
    train_images: Count | None = None


class ConvLayer(_Section):
    """[[network]] type = "conv": convolution, BatchNorm and LIF neurons.

    Args:
        channels: output channels.
        kernel, stride, padding: of both axes, in pixels.
        groups: must divide the channels (and those of the layer before).
        bits: weight bits of this layer, 2..8; left out: as [quantise] says.
    """

    type: Literal["conv"] = "conv"
    channels: Annotated[int, Field(ge=1, le=65_536)]
    kernel: Annotated[int, Field(ge=1, le=64)] = 3
    stride: Annotated[int, Field(ge=1, le=64)] = 1
    padding: Annotated[int, Field(ge=0, le=63)] = 1
    groups: Annotated[int, Field(ge=1, le=65_536)] = 1
    bits: Bits | None = None


class PoolLayer(_Section):
    """[[network]] type = "pool": sum-pooling, a depthwise convolution of equal weights, with stride = kernel.

    Args:
        kernel: of both axes, in pixels.
    """

    type: Literal["pool"] = "pool"
    kernel: Annotated[int, Field(ge=2, le=64)] = 2


class DenseLayer(_Section):
    """[[network]] type = "dense": all-to-all synapses and LIF neurons; what comes before it is flattened (C, H, W).

    Args:
        units: number of neurons.
        bits: weight bits of this layer, 2..8; left out: as [quantise] says.
    """

    type: Literal["dense"] = "dense"
    units: Annotated[int, Field(ge=1, le=1_048_576)]
    bits: Bits | None = None


Layer: TypeAlias = ConvLayer | PoolLayer | DenseLayer


class ConvNetwork(_Section):
    """[network] with the name of a convolutional network, instead of [[network]] (:func:`qpsnn_lava.networks.conv_layers`).

    Args:
        name: "vgg16", "vggsnn", "conv28-small", "conv28-medium" or "conv28-large".
        width: its numbers of channels are multiplied by this, above 0 and at most 8.
        pool: where the map is halved, "stride" (the convolution before takes stride 2) or "sum" (sum-pooling).
    """

    name: ConvName
    width: Annotated[float, Field(gt=0, le=8)] = 1.0
    pool: Pool = "stride"


class Mlp(_Section):
    """[network] name = "mlp": dense layers, instead of [[network]].

    Args:
        hidden: neurons of each hidden layer, 1..256 numbers.
    """

    name: Literal["mlp"]
    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1_048_576)], ...],
        BeforeValidator(_array),
        Field(min_length=1, max_length=MAX_LAYERS),
    ]


_NAMED: TypeAdapter[ConvNetwork | Mlp] = TypeAdapter(Annotated[ConvNetwork | Mlp, Field(discriminator="name")])


def _layers(value: object) -> object:
    """The layers that a [network] section names, as the [[network]] sections that it stands for; those as they are."""
    if not isinstance(value, dict):
        return _array(value)
    named = _NAMED.validate_python(value)
    return tuple(mlp_layers(named.hidden) if isinstance(named, Mlp) else conv_layers(named.name, named.width, named.pool))


class Neuron(_Section):
    """[neuron]: the LIF neurons of all hidden layers.

    Args:
        current_decay, voltage_decay: device integers 0..4096, in 4096ths a step (4096: no memory, 0: no leak).
        threshold: real, > 0, in the units of the float training.
        surrogate_width: width of the surrogate gradient, > 0, as a share of the threshold.
        surrogate_scale: its height, > 0.
    """

    current_decay: Decay = 4096
    voltage_decay: Decay = 2048
    threshold: Positive = 1.0
    surrogate_width: Positive = 0.5
    surrogate_scale: Positive = 1.0


class Quantise(_Section):
    """[quantise]: ReScaW (:class:`qpsnn_lava.quantise.Quantiser`).

    Args:
        bits, first_bits, last_bits: weight bits 2..8 of the hidden layers, of the first layer and of the read-out.  bits = "auto":
            2..8 for each hidden layer, chosen after the float phase so that the network stays within the budget
            (:mod:`qpsnn_lava.bit_plan`).
        budget_mb, budget_words, budget_cores: with bits = "auto" one of them: megabytes of stored weights, or synapse words or cores
            on the chip of [map], of the network before pruning.
        grid: "mid_tread" (zero is a level; stores in exactly these bits) or "mid_rise" (the paper's; one bit more).
        gamma: the layer's scale: "mean_abs" (1-norm mean), "max", "percentile", or "none" (no rescaling, the paper's baseline).
        percentile: the x of gamma = "percentile", above 0.5, at most 1.
        n2uq: gamma times (2**b - 1) / 2**(b - 1).
        per: one gamma a "layer", one a "channel" (trains, but cannot be frozen), or "channel_shift" (the layer's times a power of two
            a channel).
        shift_bits: stored bits that "channel_shift" may add, 1..6.
        segments: steps that double from one part of |W| to the next, 1..4 parts ("piecewise gamma").
        masked: clipped weights get no gradient.
        norm: how BatchNorm is folded: "full", "shared" (one scale a layer) or "mean" (mean only).
    """

    bits: Bits | Literal["auto"] = 4
    first_bits: Bits = 8
    last_bits: Bits = 8
    budget_mb: Annotated[float, Field(gt=0)] | None = None
    budget_words: Count | None = None
    budget_cores: Count | None = None
    grid: Literal["mid_tread", "mid_rise"] = "mid_tread"
    gamma: Literal["mean_abs", "max", "percentile", "none"] = "mean_abs"
    percentile: Annotated[float, Field(gt=0.5, le=1)] = 0.99
    n2uq: bool = False
    per: Literal["layer", "channel", "channel_shift"] = "layer"
    shift_bits: Annotated[int, Field(ge=1, le=6)] = 1
    segments: Annotated[int, Field(ge=1, le=4)] = 1
    masked: bool = False
    norm: Literal["full", "shared", "mean"] = "full"

    @model_validator(mode="after")
    def _one_budget(self) -> Quantise:
        budgets = [key for key in ("budget_mb", "budget_words", "budget_cores") if getattr(self, key) is not None]
        if self.bits == "auto" and len(budgets) != 1:
            given = f"{' and '.join(f'quantise.{key}' for key in budgets)} are given" if budgets else "no budget is given"
            raise ValueError(
                f'quantise.bits is "auto", but {given}; give one of quantise.budget_mb, quantise.budget_words and '
                "quantise.budget_cores"
            )
        if self.bits != "auto" and budgets:
            raise ValueError(f'quantise.{budgets[0]} is given, but quantise.bits is {self.bits}; a budget goes with "auto"')
        if self.gamma == "none" and (self.n2uq or self.per != "layer"):
            what = "quantise.n2uq" if self.n2uq else f'quantise.per = "{self.per}"'
            raise ValueError(f'quantise.gamma is "none", which does not rescale, so {what} has no meaning; leave one out')
        return self


class Readout(_Section):
    """[readout]: the last layer, which the network list leaves out.

    Args:
        kind: "integrator" (v at the end of the window) or "rate" (spike counts).
        neurons_per_class: 1..1024, for the rate read-out.
    """

    kind: Literal["integrator", "rate"] = "integrator"
    neurons_per_class: Annotated[int, Field(ge=1, le=1024)] = 4


class Train(_Section):
    """[train]: the three phases: float, quantised, and fine-tuning after the cut.

    Args:
        epochs: of the float phase.
        quantised_epochs, finetune_epochs: of the two quantised phases.
        frozen_epochs: so many last epochs of each quantised phase (all of them where it has fewer) run with frozen BatchNorm
            statistics.
        batch: images per step.
        optimiser: "adam" or "sgd".
        learning_rate: at the start of the float and of the quantised phase (cosine schedule), > 0, at most 10.
        finetune_learning_rate: the same for fine-tuning.
        weight_decay: 0..1.
        label_smoothing: share of each label that is spread over all classes, 0 to below 1.
        threads: 0: all cores.
        dynamics: "fused" (our one pass over time, where numba is installed) or "slayer" (stock SLAYER's loop: the same spikes).
        augment: of images "none", "flip", "shift", "flip-shift", "crop-flip", "crop-flip-cutout" or "autoaugment"; of frames of events
            "none", "event-shift" or "event-flip-shift" (:func:`qpsnn_lava.data.augmented`).
    """

    epochs: Epochs = 20
    quantised_epochs: Epochs = 10
    finetune_epochs: Epochs = 10
    frozen_epochs: Epochs = 1
    batch: Annotated[int, Field(ge=1, le=65_536)] = 64
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    finetune_learning_rate: Annotated[float, Field(gt=0, le=10)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    dynamics: Literal["fused", "slayer"] = "fused"
    augment: Augment = "none"


class Prune(_Section):
    """[prune]: which channels stay.

    Args:
        criterion: "svs", "sca", "l1", "rate", "random" or "hrank" (:mod:`qpsnn_lava.criteria`).
        keep: share of the channels that stays, above 0, at most 1: one number, or one for each conv and dense layer in order
            (depthwise ones, which have the channels of their source, left out).
        plan: instead of keep, the paper's shares by name (:data:`qpsnn_lava.networks.PLANS`): the network, and how many percent
            of the channels of its first and of its later layers go.  An experiment that was read has its shares in keep.
        budget_parameters, budget_mb, budget_ops, budget_words, budget_cores: instead of keep, one of them: what the pruned network
            takes at most, in stored weights and biases, in megabytes (1e6 bytes) of them, in synaptic operations per inference, or
            in synapse words or cores on the chip of [map]; widths are then chosen from the scores (:mod:`qpsnn_lava.width_plan`).
            An experiment that was read has no keep then.
        scope: "layer" (the share holds in each layer) or "global" (over all layers together).
        widths: "any" (what the share leaves) or "chip" (rounded to widths that the chip of [map] stores well, see
            :func:`mapping.widths.choose_widths`).
        eps: of svs and hrank: singular values above it count, > 0.
        eps_relative: eps is multiplied with each map's largest singular value and its larger side; the authors' code does so, with
            eps = 1.1920929e-07.
        tie_break: between channels of equal score: "nuclear" (of svs and hrank), "rate" or "none" (the lower channel stays).
        samples: training images that are scored (l1 and random take none).
        order: "qp" (quantise, then prune), "pq" (prune and fine-tune in float, then quantise) or "together" (both at once, after the
            float phase; one phase of quantised_epochs + finetune_epochs follows).
        rounds: so many cuts, 1..32, each with its share of finetune_epochs behind it; the share that stays falls geometrically.
    """

    criterion: CriterionName = "svs"
    keep: Ratio | Annotated[tuple[Ratio, ...], BeforeValidator(_array)] | None = 0.5
    plan: PlanName | None = None
    budget_parameters: Annotated[int, Field(ge=1, le=10**12)] | None = None
    budget_mb: Positive | None = None
    budget_ops: Positive | None = None
    budget_words: Annotated[int, Field(ge=1, le=10**12)] | None = None
    budget_cores: Count | None = None
    scope: Literal["layer", "global"] = "layer"
    widths: Literal["any", "chip"] = "any"
    eps: Positive = 1e-6
    eps_relative: bool = False
    tie_break: Literal["nuclear", "rate", "none"] = "nuclear"
    samples: Count = 512
    order: Literal["qp", "pq", "together"] = "qp"
    rounds: Annotated[int, Field(ge=1, le=32)] = 1

    @property
    def budget(self) -> tuple[WidthUnit, float] | None:
        """Unit (parameters, mb, ops, words or cores) and amount of the budget, where one is given."""
        given = ((unit, getattr(self, f"budget_{unit}")) for unit in get_args(WidthUnit))
        return next(((unit, float(value)) for unit, value in given if value is not None), None)

    @model_validator(mode="after")
    def _plan_alone(self) -> Prune:
        given = [key for key in ("plan", *_BUDGETS) if getattr(self, key) is not None]
        if self.plan is not None and "keep" in self.model_fields_set and self.keep is not None:
            raise ValueError(
                f'prune.plan is "{self.plan}", and prune.keep is given too; a plan is a list of shares: leave one out'
            )
        if len(given) > 1 or (given and "keep" in self.model_fields_set and self.keep is not None):
            both = f"prune.{given[0]} and prune.{given[1] if len(given) > 1 else 'keep'}"
            raise ValueError(f"{both} are given; each says how much stays: leave one out")
        if self.plan is not None and self.scope == "global":
            raise ValueError('prune.plan lists a share per layer, but prune.scope is "global"; take scope = "layer", or keep')
        if self.budget is not None and (self.scope == "global" or self.widths == "chip"):
            key, value = ("scope", "global") if self.scope == "global" else ("widths", "chip")
            raise ValueError(
                f'prune.{given[0]} is given, but prune.{key} is "{value}"; a budget chooses the widths of all layers together: '
                f"leave prune.{key} out"
            )
        return self


_BUDGETS = tuple(f"budget_{unit}" for unit in get_args(WidthUnit))


class Lava(_Section):
    """[lava]: the run on Lava's fixed-point simulation.

    Args:
        samples: test images that run there.
        timeout: seconds, above 0.
    """

    samples: Count = 64
    timeout: Positive = 600.0


class Map(_Section):
    """[map]: the chip that the network is mapped onto.

    Args:
        chip: name of a built-in chip or path of a chip file.
    """

    chip: Annotated[str, Field(min_length=1)] = "loihi2"


class Experiment(_Section):
    """A whole experiment, with every default filled in.

    Args:
        name: of the run folder: letters, digits, dot, dash, underscore, 64 at most, the first a letter or digit.
        seed: 0..2**63 - 1, of everything that is drawn.
        network: the hidden layers in order, 1..256, or a section that names them (:class:`ConvNetwork`, :class:`Mlp`); flattening
            and the read-out are implied.
        data, neuron, quantise, readout, train, prune, lava, map: see each section.
    """

    name: Annotated[str, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z")]
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    data: Data
    network: Annotated[
        tuple[Annotated[Layer, Field(discriminator="type")], ...],
        BeforeValidator(_layers),
        Field(min_length=1, max_length=MAX_LAYERS),
    ]
    neuron: Neuron = Neuron()
    quantise: Quantise = Quantise()
    readout: Readout = Readout()
    train: Train = Train()
    prune: Prune = Prune()
    lava: Lava = Lava()
    map: Map = Map()

    @field_validator("prune")
    @classmethod
    def _planned(cls, prune: Prune, info: ValidationInfo) -> Prune:
        """The shares of prune.plan in prune.keep (they depend on the network); no keep beside a budget."""
        if prune.budget is not None:
            return prune.model_copy(update={"keep": None})
        if prune.plan is None or "network" not in info.data:
            return prune
        channels = [width_of(layer) for layer in _prunable(info.data["network"])]
        return prune.model_copy(update={"keep": plan_shares(prune.plan, channels), "plan": None})

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        name, coding = self.data.name, self.data.coding
        if (name in EVENT_NAMES) != (coding == "events"):
            kind, way = ("events", '"events"') if name in EVENT_NAMES else ("images", '"direct" or "rate"')
            raise ValueError(f'data.coding is "{coding}", but {name} is a set of {kind}; it takes {way}')
        allowed = allowed_augments(name)
        if self.train.augment not in allowed:
            raise ValueError(f'train.augment is "{self.train.augment}"; {name} takes {", ".join(allowed)}')
        flat = False
        for i, layer in enumerate(self.network):
            if flat and not isinstance(layer, DenseLayer):
                raise ValueError(
                    f"network[{i}] is a {layer.type} layer after a dense one, which has no height and width; put it first"
                )
            flat = isinstance(layer, DenseLayer)
            if isinstance(layer, ConvLayer) and layer.channels % layer.groups:
                raise ValueError(f"network[{i}].groups is {layer.groups}, which does not divide its {layer.channels} channels")
            if isinstance(layer, ConvLayer) and layer.padding >= layer.kernel:
                raise ValueError(f"network[{i}].padding is {layer.padding}; it must be below the kernel of {layer.kernel}")
        pruned = prunable_layers(self)
        if isinstance(self.prune.keep, tuple):
            if len(self.prune.keep) != len(pruned):
                depthwise = len(weighted_layers(self)) - len(pruned)
                raise ValueError(
                    f"prune.keep lists {len(self.prune.keep)} shares, but the network has {len(pruned)} conv and dense layers"
                    f"{f' beside {depthwise} depthwise' if depthwise else ''}; give one for each, in order, or one number for all"
                )
            if self.prune.scope == "global":
                raise ValueError(
                    'prune.keep lists a share per layer, but prune.scope is "global"; give one number, or scope = "layer"'
                )
        self._check_groups()
        return self

    def _check_groups(self) -> None:
        """A convolution of several groups that is not depthwise stays whole, and so does what it takes its input from."""
        prune, cut = self.prune, False
        shares = iter(prune.keep if isinstance(prune.keep, tuple) else [prune.keep] * len(self.network))
        depthwise = _depthwise(self.network)
        for i, layer in enumerate(self.network):
            if isinstance(layer, PoolLayer) or i in depthwise:
                continue
            share, before = next(shares), cut
            width = width_of(layer)
            whole = share is not None and (share == 1 or (prune.scope == "layer" and math.floor(share * width + 0.5) == width))
            cut = not whole
            if isinstance(layer, ConvLayer) and layer.groups > 1 and (cut or before):
                raise ValueError(
                    f"network[{i}] has {layer.groups} groups, and [prune] would cut {'it' if cut else 'the layer before it'}; only "
                    "depthwise and ungrouped layers, and those before them, can be pruned: list prune.keep with 1 for both, or "
                    "take groups = 1"
                )


def weighted_layers(experiment: Experiment) -> tuple[ConvLayer | DenseLayer, ...]:
    """The hidden layers that have trained weights: conv and dense, in order."""
    return _weighted(experiment.network)


def prunable_layers(experiment: Experiment) -> tuple[ConvLayer | DenseLayer, ...]:
    """Those of :func:`weighted_layers` that are pruned: all but depthwise convolutions, which have the channels of their source."""
    return _prunable(experiment.network)


def width_of(layer: ConvLayer | DenseLayer) -> int:
    """Channels, or units."""
    return layer.units if isinstance(layer, DenseLayer) else layer.channels


def _weighted(layers: tuple[Layer, ...]) -> tuple[ConvLayer | DenseLayer, ...]:
    return tuple(layer for layer in layers if not isinstance(layer, PoolLayer))


def _prunable(layers: tuple[Layer, ...]) -> tuple[ConvLayer | DenseLayer, ...]:
    depthwise = _depthwise(layers)
    return tuple(layer for i, layer in enumerate(layers) if i not in depthwise and not isinstance(layer, PoolLayer))


def _depthwise(layers: tuple[Layer, ...]) -> set[int]:
    """Which convolutions have a group for each channel of their source and of their own; the first layer's source has those."""
    found, source = set(), 0
    for i, layer in enumerate(layers):
        if isinstance(layer, ConvLayer):
            if layer.groups > 1 and layer.groups == layer.channels and source in (0, layer.channels):
                found.add(i)
            source = layer.channels
    return found


def weight_bits(experiment: Experiment) -> tuple[int, ...]:
    """Weight bits of each of :func:`weighted_layers`, then of the read-out.

    A layer's own ``bits`` wins; else the first takes ``quantise.first_bits``, the others ``quantise.bits``; the read-out takes
    ``quantise.last_bits``.  Where ``quantise.bits`` is "auto" the others have 8 until they are chosen.
    """
    quantise, layers = experiment.quantise, weighted_layers(experiment)
    hidden_bits = MAX_BITS if quantise.bits == "auto" else quantise.bits
    defaults = (quantise.first_bits, *(hidden_bits for _ in layers))
    hidden = (layer.bits or default for layer, default in zip(layers, defaults, strict=False))
    return (*hidden, quantise.last_bits)


def free_layers(experiment: Experiment) -> tuple[int, ...]:
    """Which of :func:`weighted_layers` get their bits from ``quantise.bits``: neither the first nor one with bits of its own."""
    return tuple(i for i, layer in enumerate(weighted_layers(experiment)) if i and layer.bits is None)


def experiment_names() -> tuple[str, ...]:
    """The built-in experiments."""
    folder = files("qpsnn_lava") / "experiments"
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_experiment(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """An experiment from a file or by its built-in name, with single values replaced.

    Args:
        path_or_name: a built-in name (see :func:`experiment_names`) or the path of a TOML file of at most 1 MiB.
        overrides: ``"prune.keep=0.4"``, applied in order before anything is checked.  Right of the equals sign stands a TOML
            value; a bare word (``data.coding=rate``) is taken as a string.  Layers count from 0: ``network.1.channels=24``.
            ``prune.keep``, ``prune.plan`` and ``prune.budget_...`` take each other's place.

    Raises:
        FormatError: where the file is not TOML, too large or cannot be read.
        ConfigError: for an unknown experiment, key or value, naming file, field, value, what is allowed and a near miss.
    """
    source, text = _read(path_or_name)
    tree = _tree(text, source)
    replaced = {path: override for override in overrides for path in [_override(tree, override)]}
    return _parse(tree, source, replaced)


def experiment_of(text: str, source: str) -> Experiment:
    """An experiment from TOML text, such as :func:`to_toml` makes and a report keeps; ``source`` is its name in messages.

    Raises:
        FormatError, ConfigError: as :func:`load_experiment`.
    """
    return _parse(_tree(text, source), source, {})


def _tree(text: str, source: str) -> dict[str, Any]:
    try:
        return tomli.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML, a number of too many digits, arrays nested too deep
        raise FormatError(f"{source} is not TOML: {error}.") from error


def to_toml(experiment: Experiment) -> str:
    """The experiment as TOML text, every default written out; parsed again it is equal."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in experiment.model_dump(exclude_none=True).items():
        if isinstance(value, dict):
            tables += ["", f"[{key}]", *_assignments(value)]
        elif isinstance(value, tuple) and value and isinstance(value[0], dict):
            for entry in value:
                tables += ["", f"[[{key}]]", *_assignments(entry)]
        else:
            lines += _assignments({key: value})
    return "\n".join([*lines, *tables, ""])


def _read(path_or_name: str | Path) -> tuple[str, str]:
    """Where the text came from, for messages, and the text."""
    names = experiment_names()
    if path_or_name in names:
        built_in = files("qpsnn_lava") / "experiments" / f"{path_or_name}.toml"
        return f"built-in experiment {path_or_name}", built_in.read_text("utf-8")
    path = Path(path_or_name)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        message = f"there is no experiment {str(path_or_name)!r}: no file of that name, and built in are {', '.join(names)}"
        near = difflib.get_close_matches(str(path_or_name), names, 1)
        raise ConfigError(f"{message}; did you mean {near[0]!r}?" if near else f"{message}.") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise FormatError(f"{str(path_or_name)!r} cannot be read as an experiment ({error}).") from error
    if len(content) > MAX_FILE_BYTES:
        raise FormatError(f"{path} is larger than {MAX_FILE_BYTES} bytes, too large for an experiment.")
    try:
        return str(path), content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not TOML: it is not UTF-8 text ({error}).") from error


def _override(tree: dict[str, Any], override: str) -> tuple[str, ...]:
    """Put one ``key=value`` into the tree; returns the key's parts."""
    key, equals, text = (part.strip() for part in override.partition("="))
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in path):
        raise ConfigError(f"{_flag(override)} is not of the form section.key=value, such as prune.keep=0.4.")
    value = _override_value(override, text)
    node: Any = tree
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, dict):
            if last:
                node[part] = value
                for other in _INSTEAD_OF if path[:1] == ("prune",) and part in _INSTEAD_OF else ():
                    if other != part:
                        node.pop(other, None)
            else:
                node = node.setdefault(part, {})
        elif isinstance(node, list):
            if not (part.isdecimal() and int(part) < len(node)):
                entries = f"{_dotted(path[:depth])} has the entries 0..{len(node) - 1}, not {part!r}"
                raise ConfigError(f"{_flag(override)}: {entries}.")
            if last:
                node[int(part)] = value
            else:
                node = node[int(part)]
        else:
            raise ConfigError(f"{_flag(override)}: {_dotted(path[:depth])} is a single value, so it has no {part!r} in it.")
    return path


_INSTEAD_OF = ("keep", "plan", *_BUDGETS)  # keys of [prune] that take each other's place


def _override_value(override: str, text: str) -> object:
    try:
        parsed = tomli.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    if set(parsed) == {"value"}:
        return parsed["value"]
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", text):
        return text
    raise ConfigError(
        f"{_flag(override)}: right of the = stands no TOML value; write a number, true or false, a word, "
        '"a text" in quotes, or [a, list].'
    )


def _parse(tree: dict[str, Any], source: str, replaced: Mapping[tuple[str, ...], str]) -> Experiment:
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        # an unknown key often explains what else is wrong, so it is told first; then the outermost
        first = min(details, key=lambda detail: (detail["type"] != "extra_forbidden", len(detail["loc"])))
        location = _location(first["loc"])
        raise ConfigError(f"{_origin(first, location, source, replaced)}: {ended(_explain(first, location, tree))}") from None


def _origin(
    detail: ErrorDetails, location: tuple[int | str, ...], source: str, replaced: Mapping[tuple[str, ...], str]
) -> str:
    """Where the offending value came from: the override that set it, else the file."""
    if detail["type"] == "value_error":  # a contradiction between fields
        return " ".join([source, *(f"with {_flag(override)}" for override in replaced.values())])
    words = tuple(str(part) for part in location) + ((_tag(location),) if detail["type"].startswith("union_tag") else ())
    within = detail["type"] == "extra_forbidden" or isinstance(detail["input"], dict)  # a key below it may have made it
    for path, override in reversed(list(replaced.items())):
        if words[: len(path)] == path or (within and path[: len(words)] == words):
            return _flag(override)
    return source


def _flag(override: str) -> str:
    """The override as it stands on the command line, shortened."""
    return f"--set {override!r}" if len(override) <= 80 else f"--set {override[:77] + '...'!r}"


def _location(raw: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """pydantic's location without the names of union branches that it puts in between."""
    if raw[:2] in (("prune", "keep"), ("quantise", "bits")):
        return raw[:2]
    if raw[:1] != ("network",) or len(raw) == 1:
        return raw
    return raw[:2] + raw[3:] if isinstance(raw[1], int) else raw[:1] + raw[2:]


def _tag(location: Sequence[str | int]) -> str:
    """The key that says which kind of section stands at ``location``: a layer's type, a network's name."""
    return "type" if len(location) > 1 else "name"


def _dotted(location: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) or part.isdecimal() else f".{part}" for part in location).lstrip(".")


def _explain(detail: ErrorDetails, location: tuple[int | str, ...], tree: dict[str, Any]) -> str:
    """One sentence, without the full stop: field, value, what is allowed, a near miss."""
    kind, given, field = detail["type"], detail["input"], _dotted(location)
    if kind == "value_error":
        return str(detail["ctx"]["error"]).removesuffix(".")
    if kind == "extra_forbidden":
        names = tuple(_schema(location[:-1], tree)["properties"])
        owner = "an experiment" if len(location) == 1 else "such a layer" if len(location) == 3 else f"[{location[0]}]"
        return f"{field} is unknown; {owner} has {', '.join(names)}{near_miss(location[-1], names)}"
    if kind.startswith("union_tag"):  # of a layer or a named network: absent or unknown
        field, given = f"{field}.{_tag(location)}", given.get(_tag(location))
        options = _LAYER_TYPES if len(location) > 1 else _NETWORK_NAMES
    else:
        options = ()
    schema = _schema(location, tree)
    options = options or tuple(schema.get("enum", [schema["const"]] if "const" in schema else []))
    if options:
        allowed = ("one of " if len(options) > 1 else "") + ", ".join(shown(option) for option in options)
    else:
        allowed = _ALLOWED.get(field) or _allowed(schema)
    near = near_miss(given, options)
    if kind == "missing" or given is None:
        return f"{field} is missing; it must be {allowed}"
    return f"{field} is {shown(given)}; it must be {allowed}{near}"


_LAYER_TYPES: tuple[str, ...] = ("conv", "pool", "dense")
_NETWORK_NAMES: tuple[str, ...] = (*get_args(ConvName), "mlp")

_ALLOWED = {
    "quantise.bits": 'a whole number in 2..8, or "auto"',
    "name": "1..64 letters, digits, dots, dashes or underscores, the first a letter or digit (it names a folder)",
    "network": f"a list of 1..{MAX_LAYERS} layers, each a [[network]] section, or one [network] section with a name",
    "network.hidden": f"a list of 1..{MAX_LAYERS} whole numbers, the neurons of each hidden layer",
    "prune.keep": "a number above 0 and at most 1, or a list of such numbers, one for each conv and dense layer",
}


def _schema(location: Sequence[int | str], tree: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of the field at ``location``; the layer's type is looked up in ``tree``."""
    root = Experiment.model_json_schema()
    value: Any = tree
    if location[:1] == ("network",) and isinstance(tree.get("network"), dict):
        model = Mlp if tree["network"].get("name") == "mlp" else ConvNetwork
        root, value, location = model.model_json_schema(), tree["network"], location[1:]
    node: dict[str, Any] = root
    for part in location:
        value = value[part] if isinstance(part, int) else value.get(part, {})
        node = node["items"] if isinstance(part, int) else node["properties"][part]
        reference = node.get("$ref")
        if "discriminator" in node and isinstance(value, dict) and value.get("type") in _LAYER_TYPES:
            reference = node["discriminator"]["mapping"][value["type"]]
        if reference:
            node = root["$defs"][reference.removeprefix("#/$defs/")]
        node = next((branch for branch in node.get("anyOf", ()) if branch.get("type") != "null"), node)
    return node


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a field of this JSON schema may hold, in words."""
    kind = schema.get("type", "object")
    if kind == "string":
        return "a string that is not empty" if "minLength" in schema else "a string"
    if kind == "object":
        return "a section"
    if kind == "boolean":
        return "true or false"
    noun = "a whole number" if kind == "integer" else "a number"
    low, above, high, below = (schema.get(f"{key}imum") for key in ("min", "exclusiveMin", "max", "exclusiveMax"))
    if low is not None and below is not None:
        return f"{noun} of at least {low} and below {below}"
    if low is not None and high is not None:
        return f"{noun} in {low}..{high}" if kind == "integer" else f"{noun} from {low} to {high}"
    return f"{noun} above {above}" + (f" and at most {high}" if high is not None else "")


def ended(sentence: str) -> str:
    """The sentence with its full stop, where it does not end with a question mark."""
    return sentence if sentence.endswith("?") else f"{sentence}."


def near_miss(given: object, names: Sequence[str]) -> str:
    """The end of a sentence that asks for the nearest of ``names``; "" where none is near."""
    near = difflib.get_close_matches(given, names, 1) if isinstance(given, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(value: object) -> str:
    """A value as a message shows it, at most 80 characters."""
    if isinstance(value, dict):
        return "a section"
    text = toml_value(value) if isinstance(value, str | bool) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _assignments(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {toml_value(value)}" for key, value in values.items()]


def toml_value(value: str | bool | int | float | Sequence[float]) -> str:
    """One TOML value.  ``repr`` of a Python float or int is TOML, and reads back as the same number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        escaped = (_ESCAPES.get(c) or (f"\\u{ord(c):04X}" if ord(c) < 0x20 or ord(c) == 0x7F else c) for c in value)
        return f'"{"".join(escaped)}"'
    return f"[{', '.join(toml_value(entry) for entry in value)}]"


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
