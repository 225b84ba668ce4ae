"""Schema migrations, applied in order by `remotegpu migrate` and at every start."""
