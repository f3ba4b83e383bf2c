"""Learning: tasks (a model and its loss), the trainer (which knows no loss), checkpoints."""
