"""Reading metrics as Prometheus does."""

from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics, Sample
from tests.web.asking import HOST, ask

NOTHING = Sample(is_ready=True, stages={}, slots={}, units_waiting={}, file_bytes={}, disk_free_bytes=None)


class Figures:
    """The figures of one answer, by name and labels."""

    def __init__(self, text: str) -> None:
        self.samples = [each for family in text_string_to_metric_families(text) for each in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """Return the one figure of that name and exactly these labels, or None."""
        found = [each.value for each in self.samples if each.name == name and each.labels == labels]
        assert len(found) <= 1
        return found[0] if found else None

    def by(self, name: str, label: str) -> Mapping[str, float]:
        """Return the figures of a name, added up by one label."""
        summed: dict[str, float] = {}
        for each in self.samples:
            if each.name == name:
                summed[each.labels[label]] = summed.get(each.labels[label], 0) + each.value
        return summed


def counted(metrics: Metrics) -> Figures:
    """Return what was counted so far."""
    return Figures(metrics.text(NOTHING).decode())


async def shown(page: Any) -> Figures:
    """Return what GET /metrics of an application shows."""
    answer = await ask(page, path="/metrics", headers=(HOST,))
    assert answer.status_code == 200
    return Figures(answer.text)
