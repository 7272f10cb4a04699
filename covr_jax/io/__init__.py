"""Files of a run: checkpoints, metrics, the run directory."""
