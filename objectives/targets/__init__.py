"""Built-in hardware targets: one versioned TOML document each, with a source for every number."""
