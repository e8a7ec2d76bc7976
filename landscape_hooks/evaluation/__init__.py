"""Losses at points of a plane."""
