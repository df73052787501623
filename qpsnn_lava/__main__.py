"""``python -m qpsnn_lava``: the same as ``qpsnn``."""

from qpsnn_lava.cli import main

if __name__ == "__main__":
    main()
