"""Data sets: images and events, split once by seed, checked on the way in, immutable afterwards.

The validation split chooses the checkpoint; the test split is read once, at the end.

A data set of your own needs no base class: training takes any object with the fields of :class:`TrainingData`, whose splits
have the fields of :class:`Samples`.  The shortest way is to build a :class:`Dataset` from three :class:`Split` objects.
"""

from qpsnn_lava.data.augment import AUGMENTS, Augment, allowed_augments, augmented
from qpsnn_lava.data.built_in import load
from qpsnn_lava.data.catalogue import EVENT_NAMES, NAMES, SETS, Known, folder_of, known
from qpsnn_lava.data.checksums import FileCheck, Listed, SetCheck, check, listing
from qpsnn_lava.data.grey import FASHION_FILES, read_idx
from qpsnn_lava.data.saccade import saccade_events
from qpsnn_lava.data.split import Dataset, Samples, Split, TrainingData, check_seed, stratified_choice

__all__ = [
    "AUGMENTS",
    "EVENT_NAMES",
    "FASHION_FILES",
    "NAMES",
    "SETS",
    "Augment",
    "Dataset",
    "FileCheck",
    "Known",
    "Listed",
    "Samples",
    "SetCheck",
    "Split",
    "TrainingData",
    "allowed_augments",
    "augmented",
    "check",
    "check_seed",
    "folder_of",
    "known",
    "listing",
    "load",
    "read_idx",
    "saccade_events",
    "stratified_choice",
]
