"""Request routers that Ray Serve ships beside its own."""
