"""How much somebody may have, and has."""
