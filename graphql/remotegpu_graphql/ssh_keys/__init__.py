"""Keys by which users sign in on what is allocated to them."""
