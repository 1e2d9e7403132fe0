"""What one writes a pipeline with: Pipeline, Stage, HttpStage, Context, RetryPolicy, Snooze, Retry and Fail."""

from app.domain.retry import RetryPolicy
from app.pipelines.context import Context
from app.pipelines.http_stage import HttpStage
from app.pipelines.outcomes import Cancelled, Fail, Retry, Snooze
from app.pipelines.pipeline import Pipeline
from app.pipelines.stage import Stage

__all__ = ["Cancelled", "Context", "Fail", "HttpStage", "Pipeline", "Retry", "RetryPolicy", "Snooze", "Stage"]
