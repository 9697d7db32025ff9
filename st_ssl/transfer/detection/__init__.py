"""Detectors: networks seen from above, heads that find boxes, and the two put together on an encoder."""
