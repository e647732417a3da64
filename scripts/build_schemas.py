"""Rebuild the JSON schema of ``comparison.json``: ``python scripts/build_schemas.py``."""

from materium_rl.evaluation.comparison.record import SCHEMA, schema

if __name__ == "__main__":
    SCHEMA.write_text(schema(), encoding="utf-8")
    print(SCHEMA)
