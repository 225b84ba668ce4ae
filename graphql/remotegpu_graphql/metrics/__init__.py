"""Samples: what hosts and their GPUs do, now and live."""
