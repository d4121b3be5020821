"""Erasing what was said, on request and in its time, from every place that has it; with a receipt."""
