"""A tracker that breaks in the middle of a run."""

from cluster.record.trackers.base import Tracker


class FailsAtOne(Tracker):
    """Takes step 0 and no other."""

    def begin(self, run, kept):
        return {}

    def log(self, step, metrics):
        if step == 1:
            raise ConnectionError("no route to the dashboard")

    def chains(self, step, chains):
        pass

    def end(self, outcome):
        pass
