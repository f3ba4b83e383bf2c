"""Reading and writing of sound and picture, streamed through PyAV."""
