"""Groups of people who share machines."""
