"""Flow-matching samplers; pure NumPy."""

from wanjax.schedulers.euler import euler
from wanjax.schedulers.flow import SamplerTable, flow_sigmas
from wanjax.schedulers.given import SAMPLERS, sampler_table
from wanjax.schedulers.respaced import respaced
from wanjax.schedulers.unipc import unipc

__all__ = [
    "SAMPLERS",
    "SamplerTable",
    "euler",
    "flow_sigmas",
    "respaced",
    "sampler_table",
    "unipc",
]
