"""The graph below HTTP: documents against a real control plane."""
