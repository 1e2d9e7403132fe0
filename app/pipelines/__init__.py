"""What one writes a pipeline with: Pipeline, Stage, Context, RetryPolicy and Fail."""

from app.domain.retry import RetryPolicy
from app.pipelines.context import Context
from app.pipelines.outcomes import Fail
from app.pipelines.pipeline import Pipeline
from app.pipelines.stage import Stage

__all__ = ["Context", "Fail", "Pipeline", "RetryPolicy", "Stage"]
