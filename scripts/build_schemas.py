"""Rebuild the JSON schemas of the files that ``compare`` writes.

python scripts/build_schemas.py
"""

from __future__ import annotations

from materium_rl.evaluation.report.record import SCHEMAS, schemas


def main() -> None:
    """Write one file for each."""
    SCHEMAS.mkdir(exist_ok=True)
    for name, text in schemas().items():
        (SCHEMAS / name).write_text(text, encoding="utf-8")
        print(SCHEMAS / name)


if __name__ == "__main__":
    main()
