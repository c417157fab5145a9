"""Flow-matching samplers; pure NumPy."""

from wanjax.schedulers.euler import euler
from wanjax.schedulers.flow import SamplerTable, flow_sigmas
from wanjax.schedulers.respaced import respaced
from wanjax.schedulers.unipc import unipc

SAMPLERS = {"unipc": unipc, "euler": euler}

__all__ = ["SAMPLERS", "SamplerTable", "euler", "flow_sigmas", "respaced", "unipc"]
