"""The machine: devices, processes, the training loop, progress."""
