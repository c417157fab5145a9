"""Step caching: what is computed and what is reused in each step. Pure Python and NumPy.

A method is a frozen dataclass of settings with `plan(schedule, conditions) -> Plan` and
`keys`, the configuration's names of its settings; `METHODS` makes it known to the
configuration under `use_NAME`. To add one: its file, its line in `METHODS`, its keys in
`wanjax.config`.
"""

from collections.abc import Mapping

from wanjax.caching.curve import Curve, shipped_curves
from wanjax.caching.methods.cfg_cache import CFGCache
from wanjax.caching.methods.magcache import MagCache
from wanjax.caching.methods.sencache import SenCache
from wanjax.caching.plan import Plan, Schedule, Step, dense_plan, make_plan
from wanjax.caching.resample import check_fit, ratios_for
from wanjax.caching.sensitivities import Sensitivities
from wanjax.errors import CurveError

Method = MagCache | CFGCache | SenCache
METHODS: Mapping[str, type[Method]] = {
    "magcache": MagCache,
    "cfg_cache": CFGCache,
    "sen_cache": SenCache,
}

__all__ = [
    "METHODS",
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
    "shipped_curves",
]
