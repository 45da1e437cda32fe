"""What is measured. Each module is a program: `python -m bench.contenders.<name> <verb> <json>`.

Verbs: `prepare` (schema and jobs into an empty database), `drain`, `fetch`, `enqueue`, `wake`, `idle`. Each prints
JSON lines; the last one is its result.
"""
