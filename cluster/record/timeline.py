"""Timeline, ``timeline.json``: what every worker did when, in Chrome's trace-event format (open it in ui.perfetto.dev).

A JSON array with an event a line. It is appended to while a run lasts, so the file of a killed run lacks its closing
bracket, as that format allows; one that ended has it. A process of the trace is a worker, a thread one of its lanes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from cluster.record.run_files import json_lines
from rl.spans import Span
from rl.types import JsonDict

DRIVER = "driver"
"""The process that runs the loop."""
STEP = "step"
"""The driver's span of a whole step."""
MOST_BYTES = 32 << 20
"""Size from which on a file is set aside as ``timeline_before.json``, in the place of the one before it, and a new one
is begun: more than a thousand steps of a small run each, which a viewer still takes."""
_HEAD, _TAIL = b"[\n", b"\n]\n"


class TimelineWriter:
    """Appends spans to a trace file. One writer a file."""

    def __init__(self, path: Path) -> None:
        """Begin a file, or go on with one that is there, whole or cut off."""
        self._path = path
        self._pids: dict[str, int] = {}
        self._lanes: dict[tuple[str, str], int] = {}
        self._busy: dict[tuple[str, str], list[float]] = {}
        """Of lanes whose spans overlap: when each of their rows is free again, µs."""
        path.parent.mkdir(parents=True, exist_ok=True)
        events = read_timeline(path)
        for event in events:
            self._remember(event)
        self._rewrite(events)
        self._is_empty = not events

    def write(self, worker: str, spans: Sequence[Span]) -> None:
        """Append what a worker did; ``worker`` is its name."""
        lines = io.StringIO()
        for done in spans:
            for event in self._events(worker, done):
                lines.write("" if self._is_empty else ",\n")
                json.dump(event, lines, separators=(",", ":"), default=str)
                self._is_empty = False
        with self._path.open("ab") as file:
            file.write(lines.getvalue().encode())
            is_full = file.tell() > MOST_BYTES
        if is_full:
            self._turn_over()

    def _turn_over(self) -> None:
        """Set the file aside and begin another, in which every worker is named again."""
        self.close()
        self._path.replace(self._path.with_name(f"{self._path.stem}_before.json"))
        self._pids, self._lanes, self._is_empty = {}, {}, True
        self._rewrite([])

    def close(self) -> None:
        """Close the array."""
        with self._path.open("ab") as file:
            file.write(_TAIL)

    def _rewrite(self, events: Sequence[JsonDict]) -> None:
        body = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events)
        self._path.write_bytes(_HEAD + body.encode())

    def _events(self, worker: str, done: Span) -> Iterable[JsonDict]:
        if worker not in self._pids:
            self._pids[worker] = len(self._pids) + 1
            yield _metadata("process_name", self._pids[worker], 0, {"name": worker})
            order = 0 if worker == DRIVER else self._pids[worker]
            yield _metadata("process_sort_index", self._pids[worker], 0, {"sort_index": order})
        begin, end = round(done.begin_s * 1e6), round(done.end_s * 1e6)
        lane = self._row(worker, done.lane, begin, end) if done.overlaps else done.lane
        if (worker, lane) not in self._lanes:
            tid = 1 + sum(name == worker for name, _ in self._lanes)
            self._lanes[worker, lane] = tid
            yield _metadata("thread_name", self._pids[worker], tid, {"name": lane or "main"})
        yield {
            "ph": "X",
            "name": done.name,
            "pid": self._pids[worker],
            "tid": self._lanes[worker, lane],
            "ts": begin,
            "dur": end - begin,
            "args": dict(done.details),
        }

    def _row(self, worker: str, lane: str, begin: int, end: int) -> str:
        """Return a row of a lane that is free then: spans of one row must not overlap in a trace."""
        rows = self._busy.setdefault((worker, lane), [])
        index = next((i for i, free in enumerate(rows) if free <= begin), len(rows))
        rows[index : index + 1] = [float(end)]
        return f"{lane} {index}"

    def _remember(self, event: JsonDict) -> None:
        """Take up the names of an earlier attempt."""
        match event:
            case {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": worker}}:
                self._pids[worker] = pid
            case {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": lane}}:
                worker = next((name for name, known in self._pids.items() if known == pid), "")
                self._lanes[worker, "" if lane == "main" else lane] = tid


def read_timeline(path: Path) -> list[JsonDict]:
    """Return the whole events of a trace file, also of one that is being written or was cut off; no file, none."""
    return [event for event in json_lines(path)[0] if _is_event(event)]


def _is_event(event: JsonDict) -> bool:
    """Whether it is one of those that ``TimelineWriter`` writes."""
    args = event.get("args")
    if not (
        isinstance(event.get("pid"), int) and isinstance(event.get("tid"), int) and isinstance(args, dict)
    ):
        return False
    match event.get("ph"), event.get("name"):
        case "X", str():
            return all(isinstance(event.get(key), int | float) for key in ("ts", "dur"))
        case "M", "process_name" | "thread_name":
            return isinstance(args.get("name"), str)
    return event.get("ph") == "M"


def spans_of(events: Sequence[JsonDict]) -> dict[str, list[Span]]:
    """Return the spans of each worker, in order of their beginning."""
    workers = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    lanes = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans: dict[str, list[Span]] = {name: [] for name in workers.values()}
    for event in events:
        if event["ph"] == "X" and event["pid"] in workers:
            lane = lanes.get((event["pid"], event["tid"]), "main")
            spans[workers[event["pid"]]].append(
                Span(
                    name=event["name"],
                    lane="" if lane == "main" else lane,
                    begin_s=event["ts"] / 1e6,
                    seconds=event["dur"] / 1e6,
                    details=event["args"],
                )
            )
    return {worker: sorted(done, key=lambda s: (s.begin_s, -s.seconds)) for worker, done in spans.items()}


def covered_frac(within: Span, spans: Iterable[Span]) -> float:
    """Return which share of a span's time others cover together, 0..1."""
    clipped = [
        (max(s.begin_s, within.begin_s), min(s.end_s, within.end_s))
        for s in spans
        if s.end_s > within.begin_s and s.begin_s < within.end_s
    ]
    total, reached = 0.0, within.begin_s
    for begin, end in sorted(clipped):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total / within.seconds if within.seconds else 1.0


def _metadata(name: str, pid: int, tid: int, args: JsonDict) -> JsonDict:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": args}
