"""The domain: models, services and bus. No HTTP and no GraphQL in here."""
