"""The pipeline: five stages that turn a listing into a page, photos, an archive and a line of the catalogue."""

from app.pipelines import Pipeline, RetryPolicy, Stage
from examples.listings.cleanup import cleanup
from examples.listings.export import export
from examples.listings.listing import Listing
from examples.listings.parse import parse
from examples.listings.photos import photos
from examples.listings.publish import publish

_LOCAL = RetryPolicy(max_attempts=5, base_seconds=0.5, cap_seconds=30.0)

pipeline = Pipeline(
    [
        Stage("parse", parse, retry=_LOCAL, timeout_seconds=60),
        Stage("photos", photos, retry=_LOCAL, timeout_seconds=60),
        Stage("publish", publish, retry=_LOCAL, timeout_seconds=60),
        Stage("export", export, retry=_LOCAL, timeout_seconds=60),
        Stage("cleanup", cleanup, retry=_LOCAL, timeout_seconds=60),
    ],
    payload=Listing,
)
