"""Which accounts may open which GPUs' device files."""
