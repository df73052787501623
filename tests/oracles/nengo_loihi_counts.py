"""Counts random dense, sparse and convolutional blocks with nengo-loihi 1.1.0 and writes them down as JSON.

    python tests/oracles/nengo_loihi_counts.py OUT.json [--cases N] [--seed S] [--env DIR]

nengo-loihi needs numpy 1.23 and Python 3.10, so the script makes an environment of its own (``--env``, default: a temporary
one) from any Python 3.10 that it finds, installs ``nengo-loihi==1.1.0 nengo==4.1.0 numpy==1.23.5`` and runs itself in it.
Exit code 3: no Python 3.10, or the packages cannot be installed; the reason is on the last line of stderr.

nengo-loihi (Apache-2.0) is used as it is: ``Synapse.set_weights``, ``conv2d_loihi_weights``, ``set_population_weights`` and
``Synapse.bits`` do the counting; nothing of it is copied here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("nengo-loihi==1.1.0", "nengo==4.1.0", "numpy==1.23.5")
CANNOT = 3


def count(cases: int, seed: int) -> dict[str, object]:
    """Runs inside the environment."""
    import nengo
    import nengo_loihi
    import numpy as np
    import scipy.sparse
    from nengo_loihi.block import Synapse, SynapseConfig
    from nengo_loihi.conv import conv2d_loihi_weights

    widths = SynapseConfig.WEIGHT_BITS_MAP
    rng = np.random.RandomState(seed)
    rows = []
    for _ in range(cases):
        bits, delay = int(rng.choice([1, 2, 3, 4, 5, 6, 8])), int(rng.choice([0, 0, 1, 3, 6]))
        pre, post = int(rng.randint(1, 40)), int(rng.randint(1, 200))
        weights = np.ones((pre, post)) * (rng.rand(pre, post) < rng.choice([0.05, 0.3, 0.9, 1.0]))
        dense = Synapse(pre)
        dense.set_weights(weights)
        dense.format(weight_bits=widths.index(bits), delay_bits=delay)
        sparse = Synapse(pre)
        sparse.set_weights(scipy.sparse.csr_matrix(weights))
        # It stores sparse lists in the format of dense ones, without an index; the format with one is set here.
        sparse.format(weight_bits=widths.index(bits), delay_bits=delay, compression=0)
        rows.append(
            {
                "kind": "dense",
                "bits": bits,
                "delay_bits": delay,
                "pre": pre,
                "post": post,
                "nonzero": ["".join("1" if w else "0" for w in row) for row in weights],
                "axons": dense.n_axons,
                "dense_words": dense.bits() // 64,
                "sparse_words": sparse.bits() // 64,
            }
        )
    while len(rows) < 2 * cases:
        channels, filters = int(rng.randint(1, 5)), int(rng.randint(1, 9))
        size = tuple(int(n) for n in rng.randint(3, 26, 2))
        kernel = tuple(int(n) for n in rng.randint(1, 5, 2))
        strides = tuple(int(n) for n in rng.randint(1, 4, 2))
        bits = int(rng.choice([1, 2, 3, 4, 5, 6, 8]))
        if any(k > n for k, n in zip(kernel, size, strict=True)):
            continue
        shape = nengo.transforms.ChannelShape((channels, *size), channels_last=False)
        transform = nengo.Convolution(
            filters,
            shape,
            strides=strides,
            kernel_size=kernel,
            channels_last=False,
            init=np.ones((*kernel, channels, filters)),
        )
        if transform.output_shape.size > 1024:
            continue
        weights, indices, axon_map, offsets = conv2d_loihi_weights(transform)
        synapse = Synapse(int(np.prod(size)))
        synapse.set_population_weights(weights, indices, axon_map, offsets)
        synapse.format(weight_bits=widths.index(bits))
        rows.append(
            {
                "kind": "conv",
                "bits": bits,
                "channels": channels,
                "filters": filters,
                "size": size,
                "kernel": kernel,
                "strides": strides,
                "axons": int((np.asarray(offsets) >= 0).sum()),  # pixels that reach an output
                "index_bits": synapse.synapse_cfg.real_idx_bits,
                "words": synapse.bits() // 64,
            }
        )
    versions = {"nengo-loihi": nengo_loihi.__version__, "nengo": nengo.__version__, "numpy": np.__version__}
    return {"made_by": "tests/oracles/nengo_loihi_counts.py", "versions": versions, "seed": seed, "cases": rows}


def find_python() -> str | None:
    """Some Python 3.10: on the PATH, or among pyenv's."""
    names = [sys.executable, shutil.which("python3.10")]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    names += [str(path) for path in sorted(root.glob("3.10.*/bin/python"), reverse=True)] if root.is_dir() else []
    for name in names:
        if name:
            test = "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 10))"
            if subprocess.run([name, "-c", test], capture_output=True, check=False).returncode == 0:
                return name
    return None


def make_environment(directory: Path) -> Path:
    """The interpreter of an environment with the packages; SystemExit(3) with the reason where it cannot be made."""
    python = directory / "bin" / "python"
    if python.exists():
        return python
    base = find_python()
    if base is None:
        sys.stderr.write("no Python 3.10 was found on the PATH or under pyenv\n")
        raise SystemExit(CANNOT)
    subprocess.run([base, "-m", "venv", str(directory)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(directory, ignore_errors=True)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        sys.stderr.write(f"{' '.join(PACKAGES)} cannot be installed: {last}\n")
        raise SystemExit(CANNOT)
    return python


def main() -> int:
    """Makes the environment and counts in it, or counts (``--inside``)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        asked.out.write_text(json.dumps(count(asked.cases, asked.seed), indent=1) + "\n")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        python = make_environment(asked.env or Path(temporary) / "env")
        again = [str(python), __file__, str(asked.out), "--cases", str(asked.cases), "--seed", str(asked.seed), "--inside"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(again, check=False, env=environment).returncode


if __name__ == "__main__":
    raise SystemExit(main())
