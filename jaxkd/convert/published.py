"""Know published files by their hash: what they were normalised with is written nowhere inside them."""

from __future__ import annotations

from typing import NamedTuple

from jaxkd.types import IMAGENET_NORMALIZATION, Normalization

CIFAR100 = Normalization(mean=(0.507, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2761))


class KnownFile(NamedTuple):
    """A published checkpoint that is recognised by its hash.

    Attributes:
      name: its architecture, as `models.create` knows it.
      source: the repository that published it.
      normalization: what its images were normalised with.
    """

    name: str
    source: str
    normalization: Normalization


_AKAMASTER = "akamaster/pytorch_resnet_cifar10"
_CHENYAOFO = "chenyaofo/pytorch-cifar-models"

_IMAGENET = IMAGENET_NORMALIZATION

PUBLISHED = {
    "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8": KnownFile("resnet20", _AKAMASTER, _IMAGENET),
    "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850": KnownFile("resnet32", _AKAMASTER, _IMAGENET),
    "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367": KnownFile("resnet56", _AKAMASTER, _IMAGENET),
    "0d7818eb35f95925455f13e548a72cfd79faf9174e293faefba0dd56cef1e164": KnownFile("resnet20", _CHENYAOFO, CIFAR100),
    "e36a0629e178095b7747a0ae937c1ca19a2a1adf4a74f3a93eb7c18a4a3e9c90": KnownFile("resnet32", _CHENYAOFO, CIFAR100),
    "f7e590a0e2fe80795aaeb7c5c75f53bd1050a2161c8e53e523ce2835fffd52e2": KnownFile("resnet56", _CHENYAOFO, CIFAR100),
}
"""By the SHA-256 of the file."""
