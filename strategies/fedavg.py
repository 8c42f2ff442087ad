"""Federated averaging (McMahan et al. 2017) with memory that does not grow with the hospitals."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from strategies.checks import ARRAYS, METRICS
from strategies.mean import RunningMean


class StreamingFedAvg(FedAvg):
    """Flower's FedAvg, except that each reply is added and released as it arrives.

    Replies must have been checked: `CheckedGrid` yields only sound ones, sorted by site.
    """

    def __init__(self, min_sites: int) -> None:
        super().__init__(
            fraction_evaluate=0.5,  # never used: hospitals are not asked to evaluate
            min_train_nodes=min_sites,
            min_available_nodes=min_sites,
            arrayrecord_key=ARRAYS,
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the replies' tensors and numbers, weighted by exams. Empties each reply."""
        del server_round
        mean = RunningMean()
        numbers = [self._add_and_release(mean, message) for message in replies]
        if not numbers:
            return None, None
        averaged = ArrayRecord({name: Array(value) for name, value in mean.result().items()})
        return averaged, self.train_metrics_aggr_fn(numbers, self.weighted_by_key)

    def _add_and_release(self, mean: RunningMean, message: Message) -> RecordDict:
        """Add a reply's tensors to the mean, empty the message, and give its numbers."""
        arrays, metrics = message.content[ARRAYS], message.content[METRICS]
        assert isinstance(arrays, ArrayRecord), "an unchecked reply"
        assert isinstance(metrics, MetricRecord), "an unchecked reply"
        weight = metrics[self.weighted_by_key]
        assert isinstance(weight, int), "an unchecked reply"
        mean.add({name: array.numpy() for name, array in arrays.items()}, weight)
        message.content = RecordDict()
        return RecordDict({METRICS: metrics})
