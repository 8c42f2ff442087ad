"""The CLIMB model: frozen encoders, the shared fusion transformer and its losses."""
