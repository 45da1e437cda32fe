"""Long runs that end in figures: `make soak`, or `python -m soak storm | endurance` with tests/ on the path.

The same code in a short form is part of the suite (tests/faults/test_storm.py). Every run is seeded: the order of its
events, what is asked for and what the provider answers repeat; the moments at which a process dies do not.
"""
