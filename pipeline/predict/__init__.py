"""Digits of your own: find them in pictures, predict them, and take the networks elsewhere."""
