"""Measuring an avatar on held-out footage: measures as pure functions, and the run that reports."""
