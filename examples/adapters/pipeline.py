"""A pipeline whose work is done outside the process, by one of the adapters beside this file.

Start an adapter, then the service with PIPELINE=examples.adapters.pipeline:pipeline, ADAPTER_URL (what the adapter
printed) and ADAPTER_SECRET (the adapter's SECRET), and post {"payload": {"text": "how many words"}} to /v1/tasks.
"""

import os

from pydantic import BaseModel, Field

from app.pipelines import HttpStage, Pipeline, RetryPolicy


class Note(BaseModel):
    """What a caller sends: a text whose words are to be counted."""

    text: str = Field(max_length=100_000)


pipeline = Pipeline(
    [
        HttpStage(
            "words",
            os.environ["ADAPTER_URL"],
            secret=os.environ["ADAPTER_SECRET"],
            retry=RetryPolicy(max_attempts=10, base_seconds=0.5, cap_seconds=60.0),
            timeout_seconds=30,
            connect_timeout_seconds=5,
            concurrency=4,
        )
    ],
    payload=Note,
)
