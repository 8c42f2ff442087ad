"""A finished run as one page that opens anywhere."""
