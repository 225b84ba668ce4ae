"""The host's SSH server: where it listens, its keys, and which accounts it lets in."""
