"""Speech to features at 50 Hz (``encoder``), and their windows for video frames (``windows``)."""
