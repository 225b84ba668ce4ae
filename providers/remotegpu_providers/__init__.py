"""DNS and firewall providers, each behind one contract. Nothing is implemented here yet."""
