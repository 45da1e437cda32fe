"""The benchmark: marketd beside the least that Postgres and HTTP allow, and beside its peers."""
