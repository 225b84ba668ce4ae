"""Plain HTTP: the graph's endpoint, sign-in pages, health."""
