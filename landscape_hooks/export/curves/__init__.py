"""Curves: figures of numbers over the steps, and what all figures of curves share."""
