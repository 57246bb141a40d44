from lrat.analysis.agreements import agreement, margin_distributions, top_sets
from lrat.analysis.embedding import check_points, embed
from lrat.analysis.overlaps import chance_of_two, most_vulnerable, overlap
from lrat.analysis.views import Look, Seen, last_layer, look_at, looks
from lrat.analysis.weights import EDGES, RecordedEpoch, read_recorded, weight_statistics

__all__ = [
    "EDGES",
    "Look",
    "RecordedEpoch",
    "Seen",
    "agreement",
    "chance_of_two",
    "check_points",
    "embed",
    "last_layer",
    "look_at",
    "looks",
    "margin_distributions",
    "most_vulnerable",
    "overlap",
    "read_recorded",
    "top_sets",
    "weight_statistics",
]
