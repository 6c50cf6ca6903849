"""Hydra plugins of slimsweep: the search path of sweeps/ and the sweeper over grids."""
