"""How a release goes live and comes back: the controller of a rollout, and what people tell it."""
