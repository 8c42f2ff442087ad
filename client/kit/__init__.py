"""How a site joins a coordinator and leaves it."""
