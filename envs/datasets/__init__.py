"""Regression data of robots: generated from MuJoCo models or loaded from files."""
