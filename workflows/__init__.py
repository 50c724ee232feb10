"""What is run: commands, parallel searches, tracking, reports."""
