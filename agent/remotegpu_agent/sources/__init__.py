"""Where samples of GPUs come from: one file a source, behind `source.GpuSource`."""
