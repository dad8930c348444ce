"""What the Makefile calls: the main job, the comparison for `dvc metrics diff`, the gate, CI, the report."""
