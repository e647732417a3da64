"""The command line: the commands by name, and errors as one message and an exit code.

Nothing heavy is imported at the top: ``materium-rl --help`` must answer at once.
"""

from __future__ import annotations

import sys

import typer

from materium_rl import __version__
from materium_rl.commands import discoveries, generating, judging, policies, rewards, training
from materium_rl.errors import ConfigError, MateriumError, PolicyError, StructureFileError

USAGE_ERRORS = (ConfigError, StructureFileError, PolicyError)
INTERRUPTED = 130

app = typer.Typer(
    name="materium-rl",
    help="Train crystal generators and fine-tune them with reinforcement learning.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(rewards.app, name="rewards")
app.add_typer(policies.app, name="policies")
for command in (
    training.pretrain,
    training.finetune,
    generating.generate,
    judging.evaluate,
    judging.compare,
    judging.report,
    discoveries.discoveries,
    discoveries.export,
):
    app.command()(command)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"materium-rl {__version__}")


def main() -> None:
    """Run the command line; errors made on purpose become one message and an exit code.

    Exit codes: 0, 1 at run time, 2 usage or config, 130 interrupted.
    """
    try:
        app()
    except MateriumError as error:
        _fail(str(error), 2 if isinstance(error, USAGE_ERRORS) else 1)
    except OSError as error:  # disk full, no permission
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
