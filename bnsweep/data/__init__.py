"""Data sets as tensors that live on the device, and the order in which they are trained on.

There is no loader process: a data set is read once, converted once, and indexed. What a step trains
on follows from the trial's seed and the step (:mod:`bnsweep.data.order`).
"""

from bnsweep.data.augment import crop_padding, draw_flip_crop, flip_crop
from bnsweep.data.contents import Dataset
from bnsweep.data.fetching import default_root
from bnsweep.data.image_folder import prepare_image_folder, read_fingerprint
from bnsweep.data.loading import DATASETS, load_dataset
from bnsweep.data.node_copies import load_node_copy
from bnsweep.data.order import batch_indices
from bnsweep.data.transfer import sent

__all__ = [
    "DATASETS",
    "Dataset",
    "batch_indices",
    "crop_padding",
    "default_root",
    "draw_flip_crop",
    "flip_crop",
    "load_dataset",
    "load_node_copy",
    "prepare_image_folder",
    "read_fingerprint",
    "sent",
]
