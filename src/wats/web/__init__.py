"""The HTTP edge: one table of routes, one ASGI application, no framework."""
