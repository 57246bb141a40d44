from lrat.config.method import MethodSettings, MethodValue, PhaseSettings, TermSettings
from lrat.config.settings import (
    DataSettings,
    ModelSettings,
    MonitorSettings,
    RunConfig,
    ScheduleSettings,
    SimulationSettings,
    TrainingSettings,
    load_config,
)
from lrat.experiments.analyse.analyse import analyse_run
from lrat.experiments.analyse.ranking import Ranking, rank_places, rankings_table
from lrat.experiments.analyse.result import Analysis, AnalysisRequest
from lrat.experiments.compare import compare_places
from lrat.experiments.curves import CurveRequest, measure_curves
from lrat.experiments.evaluate import evaluate_run
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.experiments.monitoring import scalars
from lrat.experiments.train import TrainedRun, train_in_processes, train_run
from lrat.experiments.why import explain
from lrat.reporting.report.write import write_run_report
from lrat.runs.sources import ModelSource
from lrat.runs.sources import ModelSource as Source

__all__ = [
    "Analysis",
    "AnalysisRequest",
    "CurveRequest",
    "DataSettings",
    "EvaluationRequest",
    "MethodSettings",
    "MethodValue",
    "ModelSettings",
    "ModelSource",
    "MonitorSettings",
    "PhaseSettings",
    "Ranking",
    "RunConfig",
    "ScheduleSettings",
    "SimulationSettings",
    "Source",
    "TermSettings",
    "TrainedRun",
    "TrainingSettings",
    "analyse_run",
    "compare_places",
    "evaluate_run",
    "explain",
    "load_config",
    "measure_curves",
    "rank_places",
    "rankings_table",
    "scalars",
    "train_in_processes",
    "train_run",
    "write_run_report",
]
