"""What runs in the child processes that decode; ``media.decoder`` starts them and asks."""
