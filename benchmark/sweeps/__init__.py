"""Sweeps: equal tuning effort for every tokenizer, on Optuna's ask and tell, resumable and shared by many workers."""
