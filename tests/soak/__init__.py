"""Long runs: fuzzing from outside, and a fleet with viewers who come and go."""
