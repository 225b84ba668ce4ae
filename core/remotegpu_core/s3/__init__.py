"""What the control plane itself asks of S3: how much lies under a prefix."""
