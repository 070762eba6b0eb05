"""Logits → probabilities, their moments over draws, the measures of uncertainty, and when to stop drawing; pure."""
