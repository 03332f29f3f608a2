"""Tyndall: model serving and Ray Serve's API on one machine."""

__version__ = "0.1.0"
