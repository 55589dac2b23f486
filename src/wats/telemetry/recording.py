"""Events that are counted, timed or set: the code of every recording method.

A recorder declares an event as a method with a decorator. The parameters are the values of the
event, and its number; the body returns the attributes that follow from the values:

    @counted(SEND_OUTCOMES)
    def send_outcome(self, family: EndpointFamily, outcome: Outcome, count: int = 1) -> Described:
        return {OTEL_ATTR.GRAPH_ENDPOINT_FAMILY: family, OTEL_ATTR.OPERATION_OUTCOME: outcome}

The body runs once for each combination of values, to find the slots of their series. From then on
recording is one look-up and an addition. A further call would cost as much as both, so a recording
method is a function of `counted` or `timed` itself, without a method in between.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, lru_cache, partial
from inspect import getmembers_static, signature
from types import MappingProxyType
from typing import Any, Final, ParamSpec, TypeAlias, cast, get_type_hints

from typing_extensions import override

from wats.clock import Now
from wats.telemetry.contract.families import SPANS, Family
from wats.telemetry.contract.labels import Label
from wats.telemetry.contract.values import LabelValue, SpanName
from wats.telemetry.metrics.series import Block, Registry
from wats.telemetry.sinks.isolation import Attributes, AttributeValue, FailureLog, IsolatedSink
from wats.telemetry.spans import Tracer

P = ParamSpec("P")

Described: TypeAlias = Mapping[str, Any]
"""The attributes of an event by key: all that its families and its span have."""

Values: TypeAlias = tuple[object, ...]
"""The values of an event; `None` before the first of an event that has fewer than others."""

Record: TypeAlias = Callable[..., None]

MAX_KNOWN: Final = 4096
"""The most combinations of values that an event remembers."""

_COUNTED_VALUES: Final = 2
_TIMED_VALUES: Final = 3

_NUMBERS: Final[Mapping[object, int]] = {number: number for number in range(1000)}
"""The HTTP statuses, and the valid indices; any other number is described as -1."""

_LONGEST_SECONDS: Final = 1e9  # thirty years; a longer value is not a duration
_LARGEST_GAUGE: Final = 1e11  # a Unix time of the year 5138
_LARGEST_COUNT: Final = 1_000_000_000


@dataclass(slots=True, kw_only=True)
class Destination:
    """The receivers of all events.

    Attributes:
        registry: The numbers for `/metrics`. It can be replaced by one with the same slots.
        sink: The operator's sink, if there is one.
        failures: The log of events that cannot be recorded.
        now: The clock for the end of spans.
        tracer: Starts spans, if the sink receives their places in traces.
    """

    registry: Registry
    sink: IsolatedSink | None
    failures: FailureLog
    now: Now
    tracer: Tracer | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Event:
    """An event of a recorder, as its decorator declares it.

    Attributes:
        describe: The declared method.
        make: Makes the recording function from the look-up of its slots.
        family: The counter or gauge.
        histogram: The histogram of the durations.
        span: The span that ends with the event.
        then: A method of the recorder that receives the values after the sink, if there is one.
    """

    describe: Callable[..., Described]
    make: "Callable[[Lookup], Record]"
    family: Family | None = None
    histogram: Family | None = None
    span: SpanName | None = None
    then: Callable[..., None] | None = None


def counted(family: Family) -> Callable[[Callable[P, Described]], Callable[P, None]]:
    """Declare an event that adds its last argument to *family*; it has at most two values."""

    def declare(describe: Callable[P, Described]) -> Callable[P, None]:
        return cast("Callable[P, None]", Event(describe=describe, make=_counting, family=family))

    return declare


def timed(
    histogram: Family | None = None,
    *,
    counter: Family | None = None,
    span: SpanName | None = None,
    then: Callable[..., None] | None = None,
) -> Callable[[Callable[P, Described]], Callable[P, None]]:
    """Declare an event that took as many seconds as its last argument; it has at most three values.

    It adds 1 to *counter*, a duration to *histogram*, and ends *span*.
    """

    def declare(describe: Callable[P, Described]) -> Callable[P, None]:
        event = Event(
            describe=describe,
            make=_timing,
            family=counter,
            histogram=histogram,
            span=span,
            then=then,
        )
        return cast("Callable[P, None]", event)

    return declare


def gauged(family: Family) -> Callable[[Callable[P, Described]], Callable[P, None]]:
    """Declare an event that sets the gauge *family* to its last argument."""

    def declare(describe: Callable[P, Described]) -> Callable[P, None]:
        return cast("Callable[P, None]", Event(describe=describe, make=_setting, family=family))

    return declare


class Recorder:
    """The events of one flow. Recording never raises, for any argument and any failure.

    Raises:
        TypeError: An event could record a text, or has too many values.
    """

    _events: Sequence[tuple[str, Event]] = ()

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.lookups: dict[str, Lookup] = {}
        for name, event in self._events:
            lookup = self.lookups[name] = Lookup(self, event)
            setattr(self, name, event.make(lookup))

    @override
    def __init_subclass__(cls) -> None:
        members = getmembers_static(cls)
        cls._events = [(name, each) for name, each in members if isinstance(each, Event)]


class Lookup:
    """The slots and the attributes of an event, by its values.

    Attributes:
        slots: The slot of the counter or gauge; one that is never read if that is not exposed.
        histograms: That slot, the first one of the histogram, and its sum, if that is exposed.
        attributes: For a sink: those of the counter or gauge, of the histogram, and of the span.
    """

    def __init__(self, recorder: Recorder, event: Event) -> None:
        self.recorder = recorder
        self.event = event
        self.name = event.describe.__qualname__
        self.destination = recorder.destination
        self.memory = self.destination.registry.slots
        self.slots: dict[Values, int] = {}
        self.histograms: dict[Values, tuple[int, int, int]] = {}
        self.attributes: dict[Values, tuple[Attributes, Attributes, Attributes]] = {}
        self._types = _types_of_values(event.describe)
        self.restart()

    @property
    def block(self) -> Block | None:
        """The block of the counter or gauge, if that is exposed."""
        return self.destination.registry.block(self.event.family)

    @property
    def histogram(self) -> Block | None:
        """The block of the histogram, if that is exposed."""
        return self.destination.registry.block(self.event.histogram)

    @property
    def bounds(self) -> tuple[float, ...]:
        """The finite upper bounds of the histogram."""
        return () if self.event.histogram is None else self.event.histogram.buckets

    @property
    def is_needed(self) -> bool:
        """Whether the event has a reader: an exposed family, or a sink that receives its span."""
        has_span = self.event.span is not None and self.destination.sink is not None
        return self.block is not None or self.histogram is not None or has_span

    def padded(self, record: Record, places: int) -> Record:
        """Return *record* for the values of the event: the first of its *places* are `None`."""
        unused = places - len(self._types)
        if unused < 0:
            msg = f"{self.name} has more values than its recording method can take."
            raise TypeError(msg)
        self._record = record
        return partial(record, *[None] * unused) if unused else record

    def restart(self) -> None:
        """Forget all values. The slots of all series are found now, not in the first request."""
        for known in (self.slots, self.histograms, self.attributes):
            known.clear()
        for block in filter(None, (self.block, self.histogram)):
            block.places  # noqa: B018 - made once, and kept by the block

    def recover(self, error: Exception, values: Values, number: float) -> None:
        """Find the slots of *values* and record again; or log *error* if they are known."""
        try:
            if values in self.slots or not isinstance(error, KeyError):
                raise error
            self._record(*self.find(values), number)
        except Exception as failure:
            self.destination.failures.report(self.name, failure)

    def find(self, values: Values) -> Values:
        """Return values with known slots: *values*, with those outside of closed lists replaced.

        Members of closed lists replace equal values. `None` replaces others, and -1 other numbers.
        """
        padding = len(values) - len(self._types)
        own = tuple(map(_closed, self._types, values[padding:]))
        found = (*values[:padding], *own)
        if found not in self.slots:
            if len(self.slots) >= MAX_KNOWN:
                self.restart()
            self._add(found, self.event.describe(self.recorder, *own, 0))
        return found

    def _add(self, values: Values, described: Described) -> None:
        event, known = self.event, dict(described)
        for label in (*_labels(event.family), *_labels(event.histogram)):
            if label.values:
                known[label.attribute] = label.clamp(known[label.attribute])
        slot = self.destination.registry.spare
        if self.block is not None:
            slot = _first_slot(self.block, known)
        if self.histogram is not None:
            first = _first_slot(self.histogram, known)
            self.histograms[values] = slot, first, first + len(self.bounds) + 1
        if self.destination.sink is not None:
            self.attributes[values] = (
                _attributes(known, event.family.attributes if event.family else ()),
                _attributes(known, event.histogram.attributes if event.histogram else ()),
                _attributes(known, SPANS[event.span] if event.span else ()),
            )
        self.slots[values] = slot


@cache
def _types_of_values(describe: Callable[..., Described]) -> tuple[type, ...]:
    """Return the types of the parameters before the number: closed lists and integers only."""
    hints = get_type_hints(describe)
    _, *values, number = signature(describe).parameters
    types: tuple[type, ...] = tuple(hints.get(value, object) for value in values)
    if hints.get(number) not in (int, float) or not all(map(_is_closed, types)):
        msg = f"{describe.__qualname__} could record a text."
        raise TypeError(msg)
    return types


def _is_closed(kind: object) -> bool:
    return kind is int or (isinstance(kind, type) and issubclass(kind, LabelValue))


def _labels(family: Family | None) -> tuple[Label, ...]:
    return () if family is None else family.labels


def _closed(kind: type, value: object) -> object:
    if kind is int:
        return _NUMBERS.get(value, -1)
    try:
        return kind(value)
    except ValueError:
        return None


def _first_slot(block: Block, known: Described) -> int:
    return block.places[tuple(known[label.attribute] for label in block.family.labels)]


def _attributes(known: Described, keys: tuple[str, ...] | None) -> Attributes:
    return _frozen(tuple((key, known[key]) for key in keys or ()))


@lru_cache(maxsize=MAX_KNOWN)
def _frozen(items: tuple[tuple[str, AttributeValue], ...]) -> Attributes:
    """Return the attributes of a series; the same object again while it is in use."""
    return MappingProxyType(dict(items))


def _counting(lookup: Lookup) -> Record:
    block, sink, memory, slots = lookup.block, lookup.destination.sink, lookup.memory, lookup.slots
    if block is None:
        return _ignore_count
    name = block.family.name

    def count_event(first: object, second: object, count: int = 1) -> None:
        try:
            if not 0 <= count <= _LARGEST_COUNT:
                return
            memory[slots[first, second]] += count
            if sink is not None:
                sink.call("increment_counter", name, count, lookup.attributes[first, second][0])
        except Exception as error:
            lookup.recover(error, (first, second), count)

    return lookup.padded(count_event, _COUNTED_VALUES)


def _timing(lookup: Lookup) -> Record:
    if not lookup.is_needed:
        return lookup.padded(_ignore_time, _TIMED_VALUES)
    memory, slots, send = lookup.memory, lookup.slots, _sending(lookup)
    histograms = None if lookup.histogram is None else lookup.histograms
    bounds = lookup.bounds

    def time_event(first: object, second: object, third: object, seconds: float) -> None:
        try:
            if histograms is None:
                memory[slots[first, second, third]] += 1.0
            else:
                slot, bucket, total = histograms[first, second, third]
                if not 0.0 <= seconds < _LONGEST_SECONDS:
                    seconds = 0.0
                memory[slot] += 1.0
                memory[bucket + bisect_left(bounds, seconds)] += 1.0
                memory[total] += seconds
            if send is not None:
                send((first, second, third), seconds)
        except Exception as error:
            lookup.recover(error, (first, second, third), seconds)

    return lookup.padded(time_event, _TIMED_VALUES)


def _sending(lookup: Lookup) -> Callable[[Values, float], None] | None:
    """Return a function that passes an event to the sink, if there is one: all that is exposed."""
    sink, now, event = lookup.destination.sink, lookup.destination.now, lookup.event
    if sink is None:
        return None
    attributes = lookup.attributes
    then = event.then and partial(event.then, lookup.recorder)
    counter = lookup.block and lookup.block.family.name
    histogram = lookup.histogram and lookup.histogram.family.name
    span = event.span if sink.has("record_span") else None
    tracer = lookup.destination.tracer

    def send(values: Values, seconds: float) -> None:
        of_counter, of_histogram, of_span = attributes[values]
        if counter is not None:
            sink.call("increment_counter", counter, 1, of_counter)
        if not 0.0 <= seconds < _LONGEST_SECONDS:
            seconds = 0.0
        if histogram is not None:
            sink.call("record_histogram", histogram, seconds, of_histogram)
        if span is not None:
            ended = now()
            began = ended - timedelta(seconds=seconds)
            place = () if tracer is None else (tracer.ended(span),)
            sink.call("record_span", span.value, began, ended, of_span, *place)
        if then is not None:
            then(*values)

    return send


def _setting(lookup: Lookup) -> Record:
    block, sink, gauges = lookup.block, lookup.destination.sink, lookup.destination.registry.gauges

    def set_gauge(*event: Any) -> None:
        if block is None:
            return
        try:
            *values, number = event
            number = number if 0.0 <= number < _LARGEST_GAUGE else 0.0
            known = lookup.find(tuple(values))
            gauges[lookup.slots[known]] = number
            if sink is not None:
                sink.call("set_gauge", block.family.name, number, lookup.attributes[known][0])
        except Exception as error:
            lookup.destination.failures.report(lookup.name, error)

    return set_gauge


def _ignore_count(*_: object) -> None:
    """Ignore an event of a family that is not exposed."""


def _ignore_time(first: object, second: object, third: object, seconds: float) -> None:
    """Ignore an event without a reader. Runs for each handler, so its arguments are fixed."""
