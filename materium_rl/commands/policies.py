"""``materium-rl policies``: what there is, what is in it, what it needs, how it is passed on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from materium_rl.errors import ConfigError

if TYPE_CHECKING:
    from materium_rl.policies.catalogue import PolicyFolder

app = typer.Typer(
    help="Policies as files: list, describe, index, push; the memory that one would take.",
    no_args_is_help=True,
)

SIZES = ("nano", "base", "large")

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Bundled name, policy folder, run folder or hub id (owner/name)."),
]


@app.command("list")
def list_policies(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER..]", help="Also list the policies and runs in these folders."),
    ] = None,
) -> None:
    """List the bundled policies: size, elements, tokenizer version, validation loss in nats per structure."""
    from materium_rl.policies.catalogue import table

    rows = table(folders or [])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[-1]]).rstrip())


@app.command("show")
def show_policy(name: Name) -> None:
    """Print the model, the token settings, the checksum, the files and where the weights come from."""
    import io

    from ruamel.yaml import YAML

    from materium_rl.policies.catalogue import describe, read_policy

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 100_000  # no line breaks inside a value
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    yaml.dump(describe(read_policy(name)), stream)
    typer.echo(stream.getvalue(), nl=False)


@app.command("card")
def show_card(name: Name) -> None:
    """Print the model card."""
    from materium_rl.policies.catalogue import card_of, read_policy

    typer.echo(card_of(read_policy(name)).rstrip("\n"))


@app.command("index")
def index_policy(
    name: Name,
    data: Annotated[
        Path, typer.Option("--data", metavar="PATH", help="The structures that the policy was trained on.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the index that is there.")] = False,
) -> None:
    """Index the training structures of a policy, for novelty(reference="NAME"); pretrain does it itself."""
    from materium_rl.resources import policy_path

    if not data.exists():
        raise ConfigError(f"--data: no file or folder at {data}")
    policy_path(name)

    from materium_rl.training_index import index_policy as index

    typer.echo(index(name, data, overwrite=overwrite))


@app.command("push")
def push_policy(
    name: Name,
    repository: Annotated[str, typer.Argument(metavar="OWNER/REPO", help="Created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    with_index: Annotated[
        bool,
        typer.Option("--with-index", help="Also the index, which holds the training structures themselves."),
    ] = False,
) -> None:
    """Upload a policy to the Hugging Face Hub (log in first: hf auth login)."""
    from materium_rl.hub import is_hub_id, upload_policy
    from materium_rl.policies.catalogue import read_policy

    if not is_hub_id(repository):
        raise ConfigError(f"{repository!r} is no repository of the Hugging Face Hub: expected owner/name")
    policy = read_policy(name)

    from materium_rl.policies.loading import load_policy

    load_policy(name)  # what could not be loaded again is not passed on
    files = _published(policy, with_index=with_index)
    typer.echo(f"{upload_policy(files, repository, private=private)}: {', '.join(sorted(files))}")


def _published(policy: PolicyFolder, *, with_index: bool) -> dict[str, Path | bytes]:
    """Files of a policy folder that belong to the policy; a missing card is made."""
    from materium_rl.policies.card import CARD
    from materium_rl.policies.catalogue import POLICY_PARTS, card_of
    from materium_rl.resources import TRAINING_INDEX

    if with_index and not (policy.path / TRAINING_INDEX).is_file():
        raise ConfigError(
            f"--with-index: {policy.path} has no {TRAINING_INDEX}; see materium-rl policies index"
        )
    parts = (*POLICY_PARTS, TRAINING_INDEX) if with_index else POLICY_PARTS
    files: dict[str, Path | bytes] = {CARD: card_of(policy).encode()}
    return files | {part: policy.path / part for part in parts if (policy.path / part).is_file()}


@app.command("memory")
def show_memory(
    size: Annotated[
        str,
        typer.Argument(metavar="nano|base|large|FILE", help="Size of the policy, or a pretraining config."),
    ],
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="B", help="Structures per step in each process.", min=1),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", help="Processes that train together.", min=1)
    ] = 1,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", help="Sequences that are sampled at once.", min=1)
    ] = 128,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any config key of pretrain, as in training.bf16=false."
        ),
    ] = None,
) -> None:
    """Estimate the memory that pretraining and sampling take on each GPU, for the longest sequences."""
    from materium_rl.config import PretrainConfig, load_config

    file = f"pretrain_{size}" if size in SIZES else size
    overrides = {"data": Path("any"), "training.batch_size": batch_size}
    config = load_config(PretrainConfig, [file], overrides, sets or [])

    from materium_rl.policies.footprint import footprint

    estimate = footprint(config, processes=processes, samples=samples)
    rows = vars(estimate) | {"training, at the peak": estimate.training, "sampling": estimate.sampling}
    for name, size_in_bytes in rows.items():
        typer.echo(f"{name.replace('_', ' '):22} {size_in_bytes / 2**20:10,.1f} MiB")
