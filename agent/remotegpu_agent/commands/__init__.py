"""Commands of the control plane: what is allowed, what was taken on, and doing it once."""
