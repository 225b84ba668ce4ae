"""How hosts become machines."""
