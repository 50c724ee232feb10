"""From a policy to files: for other tools, and for a runtime."""
