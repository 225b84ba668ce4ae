"""The Strawberry schema over the services of remotegpu_core."""
