"""Cluster files for ``ray up``."""
