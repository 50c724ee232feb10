"""Study files to start from."""
