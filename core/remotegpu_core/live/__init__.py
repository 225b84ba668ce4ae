"""What viewers follow: samples and changes, each taken from the bus once per process."""
