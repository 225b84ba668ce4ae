"""Taking a host back from its user: everything of theirs is found, removed, and looked for again."""
