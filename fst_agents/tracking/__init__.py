"""What a run tells the world while it runs. MLflow is imported when a tracker starts."""

from fst_agents.tracking.mlflow_tracker import MlflowTracker, replay
from fst_agents.tracking.tracker import MemoryTracker, NullTracker, Tracker

__all__ = ["MemoryTracker", "MlflowTracker", "NullTracker", "Tracker", "replay"]
