"""Data sets in memory, their splits and subsets, augmentation and batches."""

from lrat.data.arrays import ImageData, Splits, image_data
from lrat.data.augment import Augmentation, CropAndFlip
from lrat.data.batches import InMemory, in_order
from lrat.data.digits import digits
from lrat.data.image_folder import image_folder
from lrat.data.npz import load_npz
from lrat.data.subset import VALIDATION_FRACTION, hold_out, stratified_subset
from lrat.data.torchvision_sets import cifar10, fashion_mnist, mnist

__all__ = [
    "VALIDATION_FRACTION",
    "Augmentation",
    "CropAndFlip",
    "ImageData",
    "InMemory",
    "Splits",
    "cifar10",
    "digits",
    "fashion_mnist",
    "hold_out",
    "image_data",
    "image_folder",
    "in_order",
    "load_npz",
    "mnist",
    "stratified_subset",
]
