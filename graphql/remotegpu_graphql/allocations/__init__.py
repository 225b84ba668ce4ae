"""Who has which machine, or which of its GPUs, for how long."""
