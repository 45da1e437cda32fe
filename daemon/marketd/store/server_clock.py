"""Where the clock of Postgres stands on this machine's, as its answers tell. No I/O here."""

from __future__ import annotations

from math import inf

_DRIFT = 1e-4  #: seconds by which one clock may gain on the other each second; a bad quartz does half of that
_LONGER = 1 / 16  #: part of the difference by which the way is taken to have become longer, each time


class ServerClock:
    """Tells the server's times in this machine's monotonic seconds, also where the way to it is long.

    An answer bounds the difference: the server read its clock after the question had left, and before the answer was
    here (Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989). Bounds are intersected, so
    the quickest answers count and those that lay about do no harm; ones that contradict what is known mean that a
    clock was set, and count alone.
    """

    def __init__(self) -> None:
        self._least, self._most = -inf, inf  #: this machine's clock less the server's
        self._read_at = 0.0
        self.way_s = 0.0  #: to the server and back, as quick as it is of late

    def read(self, server: float, asked: float, answered: float) -> None:
        """The server's clock read `server` (seconds since 1970) at some time between the other two (monotonic)."""
        drift = _DRIFT * (answered - self._read_at)
        least = max(asked - server, self._least - drift)
        most = min(answered - server, self._most + drift)
        if least > most:
            least, most = asked - server, answered - server
        spent_s = answered - asked
        first = self._least == -inf
        self.way_s = spent_s if first else min(spent_s, self.way_s + (spent_s - self.way_s) * _LONGER)
        self._least, self._most, self._read_at = least, most, answered

    def local(self, server: float) -> float:
        """That time of the server's on this machine's clock, wrong by half of the quickest answer's way at most."""
        return server + (self._least + self._most) / 2
