"""Distillation between CTC exits: what a loss looks at, how it compares, and how it is weighed."""

from ctcsd.distill.match import frame_kd
from ctcsd.distill.objective import Objective
from ctcsd.distill.schedule import WeightSchedule, skd_alpha
from ctcsd.distill.selection import select_frames

__all__ = ["Objective", "WeightSchedule", "frame_kd", "select_frames", "skd_alpha"]
