"""One small network of each family of transformers, which takes images of 32×32, and the names of all of them."""

from jaxkd import models
from jaxkd.models.registry import _FAMILIES

SIZE = 32
PYRAMID = {"widths": (8, 8, 10, 8), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}
PLAIN = {"width": 8, "depth": 4}

SMALL = {
    "vit_tiny_patch16_224": PLAIN | {"heads": 2, "patch_size": 8},
    "mixer_s16_224": PLAIN | {"patch_size": 8},
    "deit_tiny_distilled_patch16_224": PLAIN | {"heads": 2, "patch_size": 8},
    "swin_tiny_patch4_window7_224": {"width": 8, "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2)},
    "deit3_small_patch16_224": PLAIN | {"heads": 2, "patch_size": 8},
    "pvt_v2_b0": PYRAMID,
    "pit_ti_224": {"widths": (8, 8, 8), "depths": (1, 1, 1), "heads": (1, 2, 2)},
    "t2t_vit_7": PLAIN | {"heads": 2, "token_width": 8},
    "pvt_tiny": PYRAMID,
    "swin_t": {"width": 8, "depths": (2, 1, 1, 1), "heads": (1, 1, 2, 2)},
}
"""The options that make them small, by the names of their families."""

FAMILIES = {models.vit, models.mixer, models.swin, models.pit, models.pvt, models.t2t}


def module_of(name):
    """The module that builds a network of the zoo."""
    build = next(family.build for family in _FAMILIES if family.pattern.fullmatch(name))
    return getattr(build, "func", build).__module__


def transformers():
    """The published names of all transformers."""
    modules = {family.__name__ for family in FAMILIES}
    return [name for name in models.list() if module_of(name) in modules]
