"""What says that a video was generated: credentials, metadata, a label and a watermark."""
