"""Training, quantising, pruning and freezing of spiking networks, the pipeline and the command line."""

import os

# torch and numba each bring an OpenMP pool.  By default idle threads spin, and each pool then takes the cores from the other: a
# training step was seen to take three times as long.  It has to be said before either is loaded; a value that is set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
