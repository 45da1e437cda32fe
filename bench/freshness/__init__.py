"""How near the planner comes to the best possible: seeded synthetic worlds, a virtual clock, the real SQL."""
