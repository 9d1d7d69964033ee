"""Deprecated name of fmrifm.sweep, kept for sweep files written for 0.1; removed in 0.3."""

import sys

from fmrifm.sweep import combine

# `from fmrifm.sweeps.combine import ...` imports this module first and then finds its submodule
# here.
sys.modules[f"{__name__}.combine"] = combine
