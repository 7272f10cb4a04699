"""Launching many runs: by Ray, on this machine or a cluster, or as jobs of SLURM. A run stays a process of its own."""
