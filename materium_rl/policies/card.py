"""The model card of a policy folder: written from its config, and read for what it says of the quality."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from materium_rl import __version__

CARD = "README.md"
LOSS = "validation loss, nats per structure"
"""The row of a card that ``policies list`` shows."""
TEXT = """\
---
library_name: transformers
tags:
- materium-rl
- crystal-structure-generation
---

# A crystal policy

An autoregressive transformer that writes inorganic crystals as token sequences, made with materium-rl
{version}.

| | |
|---|---|
| architecture | Llama layers, width {config[hidden_size]}, {config[num_hidden_layers]} layers, \
{config[num_attention_heads]} heads, feed-forward width {config[intermediate_size]} |
| parameters | {parameters:,} |
| vocabulary | {config[vocab_size]:,} tokens: {n_species} species, {settings[grid]}-point coordinate grid, \
lengths in steps of {settings[length_step]:g} Å, angles in steps of {settings[angle_step]:g}° |
| cells | primitive Niggli cells of at most {settings[max_sites]} sites |
| tokenizer version | {settings[version]} |
{facts}
Species: {species}.

## Use

```
materium-rl generate --policy FOLDER_OR_OWNER/NAME -n 100 --out crystals
```

## Limits

- It repeats the bias of its training data.
- A generated structure is a proposal: relax it and compute its energy before you believe it.

## Data and licence

For the author to state here: where the training data come from, and under which licence weights and data are.
"""


def model_card(config: Mapping[str, Any], parameters: int, facts: Mapping[str, str]) -> str:
    """Markdown text of a card.

    Args:
        config: Content of ``config.json``.
        parameters: Number of parameters.
        facts: Further rows: how the policy was made and what it reaches.
    """
    settings = config["token_settings"]
    return TEXT.format(
        version=__version__,
        config=config,
        settings=settings,
        parameters=parameters,
        n_species=len(settings["species"]),
        species=" ".join(settings["species"]),
        facts="".join(f"| {name} | {value} |\n" for name, value in facts.items()),
    )


def loss_in_card(text: str) -> float | None:
    """Validation loss that a card states, in nats per structure."""
    found = re.search(rf"^\| {re.escape(LOSS)} \| ([0-9.]+) \|$", text, re.MULTILINE)
    return float(found[1]) if found else None
