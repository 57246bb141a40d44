from lrat.reproduce.make import reproduce_target
from lrat.reproduce.request import Request

__all__ = ["Request", "reproduce_target"]
