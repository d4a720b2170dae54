"""Remote calls: one way for services, for the supervisor and for everything in between."""
