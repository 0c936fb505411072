"""Find the checkpoint that a person named: a folder, the embedded mini, or an id on the Hub, fetched at one pinned commit."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.folder import CONFIG
from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef, is_hub_id
from hf_layerprune.checkpoint.cached_files import prove_cached
from hf_layerprune.checkpoint.config import read_config
from hf_layerprune.checkpoint.folder import safe_name
from hf_layerprune.checkpoint.hub_errors import hub_errors
from hf_layerprune.checkpoint.recognise import refuse_foreign
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.checkpoint.shards import INDEX, LocalShards
from hf_layerprune.errors import SourceError, shown
from hf_layerprune.families.facts import model_facts
from hf_layerprune.registry import did_you_mean

SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.py", "README.md", "LICENSE*", "NOTICE*")
WEIGHT_FILES = ("model*.safetensors",)
# What says what a repository is, without its tokenizer of many megabytes: the config, the index, and the marks of what is no model.
DESCRIPTION = (CONFIG, INDEX, "adapter_config.json", "model_index.json", "dataset_info*.json", "dataset_dict.json")

MAX_NEIGHBOURS = 1000  # folders that a mistyped name is compared with


@dataclass(frozen=True)
class ResolvedSource:
    """A checkpoint folder and the name it goes by. id: Hub id, `mini`, or the folder's name; commit: of the Hub, or None;
    fetched: the files of DESCRIPTION that were not in the cache before."""

    id: str
    path: Path
    commit: str | None
    fetched: tuple[str, ...] = ()


def resolve(
    source: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    subfolder: str | None = None,
    weights: bool = True,
    small: Sequence[str] = SMALL_FILES,
    check: Callable[[ModelFacts], object] = lambda facts: None,
) -> ResolvedSource:
    """Find `source`: a folder if one exists, else the word `mini`, else an id on the Hub.

    revision: branch, tag or commit, resolved once, so that all files are of one commit; local_files_only: ask the Hub's
    cache only; subfolder: where in the folder or repository the checkpoint lies; weights: fetch the weight files as well; small: the
    patterns of the other files to fetch; check: called with what the config says before weights are fetched from the
    Hub, to raise there what would be refused later.

    Raises SourceError saying what to do if nothing is found, or what is found is no model; its `suggestion` is an id that
    exists, where one does. FamilyError if the model is of no declared family, before its weights are fetched. CheckpointError
    if the folder cannot be listed.
    """
    if subfolder is not None and not safe_name(subfolder):
        raise SourceError(f"subfolder {shown(subfolder)}: expected a path inside the checkpoint, such as 'checkpoint-500'.")
    folder, inner = Path(source), subfolder or ""
    place = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
    if not source:
        raise SourceError("the source is empty. Pass a folder, mini or a Hub id (owner/name).")
    if len(source) > 4096 or "\0" in source or any(len(os.fsencode(part)) > 255 for part in folder.parts):
        raise SourceError(f"{shown(source)}: too long to be a folder or a Hub id, or no text. Check what was passed.")
    kind = _kind(folder)
    if kind == stat.S_IFDIR or source == "mini":
        if revision is not None:
            raise SourceError(f"{source}: only an id on the Hub has revisions. Leave out --revision, or name the repository.")
        found = ResolvedSource(folder.resolve().name, folder / inner, None) if kind == stat.S_IFDIR else _mini(inner)
    elif kind:
        raise SourceError(f"{source} is a file. Pass the folder that it lies in.")
    elif is_hub_id(source):
        found = _from_hub(source, revision, inner, (tuple(small), weights), place, check)
    else:
        raise SourceError(f"{shown(source)} is neither an existing folder, nor 'mini', nor a Hub id (owner/name). {_nearest(folder)}")
    if _kind(found.path) != stat.S_IFDIR:
        if not inner:
            raise SourceError(f"{source} holds no {CONFIG}, so it is no model. Check the id.")
        raise SourceError(f"{source} has no folder {shown(inner)}. Check --subfolder.")
    refuse_foreign(found.path, LocalShards(found.path).names(), weights=weights)
    return found


def _kind(path: Path) -> int | None:
    """What lies at a path (stat.S_IFDIR, stat.S_IFREG, …), None for nothing; SourceError if it may not be looked at."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise SourceError(f"{path}: cannot look at it: {error.strerror}. {to_read(error)}") from error


def _nearest(missing: Path) -> str:
    """What to do about a name that nothing has: the name that was meant, if one is near."""
    names = ["mini"] * (len(missing.parts) == 1)
    with suppress(OSError), os.scandir(missing.parent) as entries:
        names += [entry.name for entry in islice(entries, MAX_NEIGHBOURS) if entry.is_dir()]
    hint = did_you_mean(missing.name, names, lambda name: shown(str(missing.with_name(name))))
    return hint.strip() or "Check the spelling."


def _mini(inner: str) -> ResolvedSource:
    from hf_layerprune.mini import model_path

    return ResolvedSource("mini", model_path() / inner, None)


def _from_hub(
    repo: str,
    revision: str | None,
    inner: str,
    wanted: tuple[tuple[str, ...], bool],
    place: Mapping[str, Any],
    check: Callable[[ModelFacts], object],
) -> ResolvedSource:
    """Fetch a snapshot: the small files first, and the weights only once they have shown that it can be pruned."""
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache

    small, weights = wanted
    offline = place["local_files_only"] or constants.is_offline_mode()

    def within(name: str) -> str:
        return f"{inner}/{name}" if inner else name

    def anew(name: str) -> None:
        hf_hub_download(repo, within(name), revision=commit, force_download=True, **place)

    def fetch(patterns: tuple[str, ...]) -> Path:
        fetched = Path(snapshot_download(repo, revision=commit, allow_patterns=list(map(within, patterns)), **place)) / inner
        prove_cached(fetched, patterns, f"{repo}/{inner}".rstrip("/"), None if offline else anew)
        return fetched

    with hub_errors(repo, revision, place["local_files_only"], place["token"]):
        commit = HfApi().resolve_revision(repo, revision=revision, **place).resolved
        known = [name for name in DESCRIPTION if try_to_load_from_cache(repo, within(name), place["cache_dir"], commit)]
        path = fetch(small)
        if path.is_dir():
            refuse_foreign(path, os.listdir(path), weights=False)
            check(model_facts(read_config(path), SourceRef(repo, commit, ""), f"{repo}/{CONFIG}"))
            path = fetch(WEIGHT_FILES) if weights else path
    return ResolvedSource(repo, path, commit, tuple(name for name in DESCRIPTION if name not in known and (path / name).is_file()))
