"""Losses, one file per method. All are called as `loss(student, teacher, batch, progress, key)` and combine freely.

On logits: `CrossEntropy`, `KD`, `ATS`, `DKD`, `MLKD`, `DIST`, `HardLabel`, `DeiT`. The temperature of `KD`, `DKD`,
`MLKD` and `DIST` is a number or a rule: `CurriculumTemperature`, `InstanceTemperature`, `ATS`. On features: `FitNet`,
`AT`, `PKT`, `SP`, `VID`, `RKD`, `NST`, `CC`, `OFD`, `ReviewKD`, `CRD`, `SRRL`.
"""

from jaxkd.losses.at import AT
from jaxkd.losses.ats import ATS, asymmetric_scaling
from jaxkd.losses.base import FromTeacher, HyperParameter, Loss, Monitor, Network
from jaxkd.losses.cc import CC
from jaxkd.losses.crd import CRD
from jaxkd.losses.cross_entropy import CrossEntropy
from jaxkd.losses.deit import DeiT, HardLabel
from jaxkd.losses.dist import DIST
from jaxkd.losses.dkd import DKD
from jaxkd.losses.dml import DML
from jaxkd.losses.fitnet import FitNet
from jaxkd.losses.functional import cross_entropy, kl_divergence, soft_cross_entropy, standardize, tempered_kl
from jaxkd.losses.kd import KD
from jaxkd.losses.mlkd import MLKD, TwoViewCrossEntropy
from jaxkd.losses.nst import NST
from jaxkd.losses.ofd import OFD
from jaxkd.losses.pkt import PKT
from jaxkd.losses.reviewkd import ReviewKD
from jaxkd.losses.rkd import RKD
from jaxkd.losses.sp import SP
from jaxkd.losses.srrl import SRRL
from jaxkd.losses.temperature import (
    CurriculumTemperature,
    FixedTemperature,
    InstanceTemperature,
    Temperature,
    Tempered,
    as_temperature,
    cosine_curriculum,
    scale_gradient,
    temper,
)
from jaxkd.losses.tf_kd import TfKD
from jaxkd.losses.vid import VID
from jaxkd.schedules import warmup

__all__ = [
    "AT",
    "ATS",
    "CC",
    "CRD",
    "DIST",
    "DKD",
    "DML",
    "KD",
    "MLKD",
    "NST",
    "OFD",
    "PKT",
    "RKD",
    "SP",
    "SRRL",
    "VID",
    "CrossEntropy",
    "CurriculumTemperature",
    "DeiT",
    "FitNet",
    "FixedTemperature",
    "FromTeacher",
    "HardLabel",
    "HyperParameter",
    "InstanceTemperature",
    "Loss",
    "Monitor",
    "Network",
    "ReviewKD",
    "Temperature",
    "Tempered",
    "TfKD",
    "TwoViewCrossEntropy",
    "as_temperature",
    "asymmetric_scaling",
    "cosine_curriculum",
    "cross_entropy",
    "kl_divergence",
    "scale_gradient",
    "soft_cross_entropy",
    "standardize",
    "temper",
    "tempered_kl",
    "warmup",
]
