"""What may leave a site: its own policy, applied to each message and written to its audit log."""
