"""The demo: an embedded Postgres, the sandbox and the daemon in one process, and an app that asks for prices."""

from __future__ import annotations

from marketd.demo.asking import Item, Lane, Row, Snapshot
from marketd.demo.running import Audience, Plan, configured, run

__all__ = ["Audience", "Item", "Lane", "Plan", "Row", "Snapshot", "configured", "run"]
