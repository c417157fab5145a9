"""Step caching: what is computed and what is reused in each step. Pure Python and NumPy.

A method is one file in `methods/`: a frozen dataclass of settings with
`plan(schedule, conditions) -> Plan`. `METHODS` has them all by name, and each class can be
imported from here and from `wanjax`.
"""

from __future__ import annotations

from wanjax.caching.actions import Action
from wanjax.caching.curve import Curve, shipped_curves
from wanjax.caching.method import Method
from wanjax.caching.methods import METHODS, register
from wanjax.caching.methods.cfg_cache import CFGCache
from wanjax.caching.methods.magcache import MagCache
from wanjax.caching.methods.sen_cache import SenCache
from wanjax.caching.plan import Plan, Step, dense_plan, make_plan
from wanjax.caching.resample import check_fit, ratios_for
from wanjax.caching.schedule import Schedule
from wanjax.caching.sensitivities import Sensitivities
from wanjax.errors import CurveError

__all__ = [
    "METHODS",
    "Action",
    "CFGCache",
    "Curve",
    "CurveError",
    "MagCache",
    "Method",
    "Plan",
    "Schedule",
    "SenCache",
    "Sensitivities",
    "Step",
    "check_fit",
    "dense_plan",
    "make_plan",
    "ratios_for",
    "register",
    "shipped_curves",
]


def __getattr__(name: str) -> type[Method]:
    """The class of a method that nobody has listed here."""
    for method in METHODS.values():
        if method.__name__ == name:
            return method
    raise AttributeError(f"module 'wanjax.caching' has no attribute {name!r}")
