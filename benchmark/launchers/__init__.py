"""Where the runs of a grid happen: this process, worker processes, a Ray cluster or Slurm. One file per launcher."""
