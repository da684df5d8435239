"""Shipped weights with their cards, and the converter of published checkpoints."""
