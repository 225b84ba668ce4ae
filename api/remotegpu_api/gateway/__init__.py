"""The agents' gateway: links, who they are, and what they say."""
