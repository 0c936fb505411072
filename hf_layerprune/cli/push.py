"""`hf-layerprune push`: publish a folder on the Hub."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.publishing.options import PushOptions

RESUME = "what was sent is kept; run the same command again and only the rest is sent."


@click.command(
    short_help="Publish a model on the Hub, with its records and card.",
    epilog=options.examples(
        "hf-layerprune push ./mini-mixed-13L me/mini-mixed-13L --private",
        "hf-layerprune push ./qwen-28L my-team/qwen-28L --create-pr --commit-message 'Prune 8 layers'",
    ),
)
@click.argument("folder", metavar="DIR", type=options.PATH)
@click.argument("repo")
@options.from_fields(PushOptions, "asked")
@reporting
def push(console: Console, folder: Path, repo: str, asked: PushOptions) -> None:
    """Check DIR from its options to its last byte, then send REPO what it lacks: weights, records, figures and a card.

    A push is one commit. What a person wrote on the Hub's card is kept; where hf-layerprune's parts of it were edited, or
    somebody changed REPO meanwhile, nothing is sent. Answers (answers.jsonl) stay here.
    """
    if console.quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when huggingface_hub is imported, which is later
    from hf_layerprune.publishing.push import named_target
    from hf_layerprune.publishing.push import push as publish

    repo, asked = named_target(repo, asked)
    invocation = click.get_current_context().obj
    invocation.resume = RESUME

    def say(line: str) -> None:
        if "--revision refs/pr/" not in line:
            console.note(f"note: {line}")
            return
        click.echo(f"note: {line}", err=True)  # of what an interruption left open, also to those who asked for errors only
        invocation.resume = "what was sent is kept."

    done = publish(folder, repo, asked, say=say)
    if done.uploaded or done.deleted:
        gone = f", {len(done.deleted)} removed" if done.deleted else ""
        console.say(f"pushed  {len(done.uploaded)} files, {len(done.unchanged)} were there{gone}; the Hub's list equals the folder's")
    else:
        console.say(f"everything is there already: {len(done.unchanged)} files, nothing was sent")
    console.say(f"        {done.url} @ {done.commit[:7]}")
    if done.pull_request:
        console.say(
            f"next    hf-layerprune push {options.quoted(folder)} {repo} --revision {done.pull_request}, to change the pull request"
        )
    elif not asked.revision:
        console.say(f"next    hf-layerprune verify {repo}")
    console.result({"repo": repo, **asdict(done)})
