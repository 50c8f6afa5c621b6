"""Rewards of reinforcement learning: pure functions on texts, numbers and tensors, and the frozen model they ask."""
