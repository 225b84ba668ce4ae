"""Guards around the shape of the house. Layers and leftover prints are held by `make check`."""
