"""What is wrong with the boxes of a log, seen from its points and boxes alone: "AP is 0 on my own clouds"."""

from st_ssl.data.box_checks.check import BoxReport, Finding, Frame, check_boxes
from st_ssl.data.box_checks.counts import Proposal, Row
from st_ssl.data.box_checks.fit import above_ground

__all__ = ["BoxReport", "Finding", "Frame", "Proposal", "Row", "above_ground", "check_boxes"]
