"""Faces: landmark groups, detection and tracking, the steady crop, drawing."""
