"""The stores: memory, JSONL, SQLite and Redis, all behind one Protocol."""
