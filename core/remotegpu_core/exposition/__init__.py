"""The fleet as Prometheus reads it: typed rows in, text exposition (version 0.0.4) out."""
