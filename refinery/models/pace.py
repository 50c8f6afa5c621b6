"""How many requests a server takes at a time, and how long to wait before it is asked again."""

import email.utils
import math
import random
import time

START = 32
"""Requests on the wire at first, where the ceiling allows as many."""
GROWTH, GENTLE_GROWTH = 1.5, 1.05
"""Per round of replies: until the first sign of too much, and after it."""
TOLERATED = 0.05
"""Share of a round's replies that may be refusals without a cut: some servers refuse now and then anyway."""
WORTH = 1.05
"""More requests in flight must give this much more throughput; else they only queue."""
HOLD = 40
"""Rounds until more is tried again."""

FIRST_WAIT, LONGEST_WAIT = 0.25, 30.0
"""Seconds before the first and at most before any further try; doubled each time, with jitter."""
LONGEST_ASKED_WAIT = 120.0
"""Seconds of a server's Retry-After that are honoured."""


class Pace:
    """The limit on one server's requests in flight: it starts moderate, grows while throughput grows with it, and
    shrinks with the share of refusals (HTTP 429), at most once a round and by a quarter at most.

    A round is as many replies as the limit. A cut follows the share and not the single refusal: at a steady share s the
    limit shrinks by s/2 and grows by 5% a round, so that sporadic refusals cost little more than their own retries.
    """

    def __init__(self, ceiling: int):
        self.ceiling = ceiling
        self.limit = float(min(ceiling, START))
        self.room = int(self.limit)
        """The limit as a whole number."""
        self.full = False
        """Set by the caller when a request had to wait for room in this round."""
        self._growth = GROWTH
        self._best, self._at = 0.0, self.limit  # replies a second, and the limit that gave them
        self._hold = 0
        self._begin()

    def _begin(self) -> None:
        self._replies = self._refused = 0
        self._since = time.perf_counter()
        self.full = False

    def reply(self, refused: bool) -> None:
        self._replies += 1
        self._refused += refused
        if self._replies >= self.room:
            self._round()

    def _round(self) -> None:
        share = self._refused / self._replies
        rate = (self._replies - self._refused) / max(time.perf_counter() - self._since, 1e-6)
        if share > TOLERATED:
            self._growth = GENTLE_GROWTH
            self.limit = max(1.0, self.limit * (1 - min(share, 0.5) / 2) * GENTLE_GROWTH)
            self._best = 0.0
        elif self._hold:
            self._hold -= 1
        elif self.full:
            if rate > self._best * WORTH:
                self._best, self._at = rate, self.limit
            if self.limit > self._at * GROWTH:  # more in flight, no more done
                self.limit, self._growth, self._hold, self._best = self._at, GENTLE_GROWTH, HOLD, 0.0
            else:
                self.limit *= self._growth
        self.limit = min(self.limit, float(self.ceiling))
        self.room = max(1, math.floor(self.limit + 1e-9))
        self._begin()


def wait_before(tries: int, asked: float | None) -> float:
    """Seconds before the next try: doubling from FIRST_WAIT, and what the server asked for where that is longer (a
    server may ask for 1 s each time and stay busy for longer than so many tries); jitter spreads a crowd."""
    wait = min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT) * random.uniform(0.5, 1.0)
    return wait if asked is None else max(wait, min(asked, LONGEST_ASKED_WAIT) + random.uniform(0, 0.1))


def seconds_asked(retry_after: str | None) -> float | None:
    """A Retry-After header, in seconds or as a date, as seconds from now; None where it is neither."""
    if not retry_after:
        return None
    try:
        found = float(retry_after)
        return max(0.0, found) if math.isfinite(found) else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
