"""Stands for `ray.serve._private`, of which only ids are here."""
