"""Emulated chips: layers that compute with noise that nobody can read."""
