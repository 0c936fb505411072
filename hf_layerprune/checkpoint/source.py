"""Find the checkpoint that a person named: a folder, the embedded mini, or an id on the Hub, fetched at one pinned commit."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from hf_layerprune.artifacts.folder import CONFIG, RECORDS, safe_name
from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef, hub_name, is_hub_id
from hf_layerprune.checkpoint.config import read_config
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.recognise import refuse_foreign
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.checkpoint.shards import INDEX, LocalShards, RemoteShards, is_whole
from hf_layerprune.errors import CheckpointError, SourceError, UsageError, shown
from hf_layerprune.families import family_for
from hf_layerprune.families.facts import model_facts, quantization_of
from hf_layerprune.hub.download import Cache
from hf_layerprune.hub.listing import RemoteRepo
from hf_layerprune.mini import model_path

SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.py", "README.md", "LICENSE*", "NOTICE*")
WEIGHT_FILES = ("model*.safetensors",)
# What says what a repository is, without its tokenizer of many megabytes: the config, the index, and the marks of what is no model.
DESCRIPTION = (CONFIG, INDEX, "adapter_config.json", "model_index.json", "dataset_info*.json", "dataset_dict.json")

MAX_NEIGHBOURS = 1000  # folders that a mistyped name is compared with

Check = Callable[[ModelFacts], object]


@dataclass(frozen=True)
class ResolvedSource:
    """A checkpoint folder and the name it goes by."""

    id: str  # Hub id, `mini`, or the folder's name
    path: Path
    commit: str | None  # of the Hub
    fetched: tuple[str, ...] = ()  # the files of DESCRIPTION that were not in the cache before
    repo: RemoteRepo | None = None  # the same files on the Hub

    def open(self, *, remote: bool = False) -> Checkpoint:
        """The checkpoint in the folder; remote: its weights are on the Hub alone."""
        reader = RemoteShards(self.repo, self.path) if remote and self.repo else None
        return Checkpoint.open(self.path, self.id, self.commit, reader)


@dataclass(frozen=True)
class Place:
    """Where a source is looked for, and how."""

    revision: str | None = None  # branch, tag or commit, resolved once, so that all files are of one commit
    cache_dir: str | Path | None = None  # of the Hub's cache; huggingface_hub's own, if None
    local_files_only: bool = False  # ask the Hub's cache only
    token: str | bool | None = field(default=None, repr=False)
    subfolder: str | None = None  # where in the folder or repository the checkpoint lies


def resolve(
    source: str,
    place: Place = Place(),
    *,
    weights: bool = True,
    small: Sequence[str] = SMALL_FILES,
    check: Check = lambda facts: None,
) -> ResolvedSource:
    """Find `source`: a folder if one exists, else the word `mini`, else an id on the Hub.

    weights: fetch the weight files as well; small: patterns of the other files to fetch; check: called with what the config says
    before weights are fetched from the Hub, to raise there what would be refused later.

    SourceError if nothing is found, or what is found is no model; its `suggestion` is an id that exists, where one does.
    FamilyError if the family is not declared, before weights are fetched. CheckpointError if the folder cannot be listed.
    """
    if place.subfolder is not None and not safe_name(place.subfolder):
        raise SourceError(f"subfolder {shown(place.subfolder)}: expected a path inside the checkpoint, such as 'checkpoint-500'.")
    folder, inner = Path(source), place.subfolder or ""
    if not source:
        raise SourceError("the source is empty. Pass a folder, mini or a Hub id (owner/name).")
    if len(source) > 4096 or "\0" in source or any(len(os.fsencode(part)) > 255 for part in folder.parts):
        raise SourceError(f"{shown(source)}: not a valid path or Hub id. Check what was passed.")
    kind = _kind(folder)
    if kind is None:
        source, revision = model_named(source.rstrip("/"), place.revision)
        place = replace(place, revision=revision)
    if kind == stat.S_IFDIR or source == "mini":
        if place.revision is not None:
            raise SourceError(f"{source}: only an id on the Hub has revisions. Leave out --revision, or name the repository.")
        name, path = (folder.resolve().name, folder) if kind == stat.S_IFDIR else ("mini", model_path())
        found = ResolvedSource(name, path / inner, None)
    elif kind:
        raise SourceError(f"{source} is a file. Pass the folder that it lies in.")
    elif is_hub_id(source):
        cache = Cache(source, inner, place.cache_dir, place.local_files_only, place.token)
        found = _from_hub(cache, place.revision, small, weights, check)
    else:
        nearest = _nearest(folder)
        hint = f"Did you mean {shown(nearest)}?" if nearest else "Check the spelling."
        raise SourceError(f"{shown(source)} is neither an existing folder, nor 'mini', nor a Hub id (owner/name). {hint}", nearest)
    if _kind(found.path) != stat.S_IFDIR:
        if not inner:
            raise SourceError(f"{source} holds no {CONFIG}, so it is no model. Check the id.")
        raise SourceError(f"{source} has no folder {shown(inner)}. Check --subfolder.")
    refuse_foreign(found.path, LocalShards(found.path).names(), weights=weights)
    return found


@dataclass(frozen=True)
class Reading:
    """What was read over the network to open a checkpoint."""

    files: tuple[str, ...]  # small files that were fetched
    headers: int  # number of weight files whose headers were read
    bytes: int  # of both
    requests: int  # for ranges


def open_without_weights(source: str, place: Place = Place(), *, check: Check = lambda facts: None) -> tuple[Checkpoint, Reading | None]:
    """The checkpoint that `source` names, its weights left where they are, and what was read over the network, if anything.

    A folder, and a repository whose weights lie in the cache, are opened there. Arguments and errors are those of `resolve`.
    """
    found = resolve(source, place, weights=False, small=DESCRIPTION, check=check)
    if found.repo is None or is_whole(found.path):
        return found.open(), None
    if place.local_files_only:
        resolve(source, place)  # raises: the cache lacks the weights
    checkpoint = found.open(remote=True)
    fetched = sum((found.path / name).stat().st_size for name in found.fetched)
    return checkpoint, Reading(found.fetched, len(checkpoint.shards), fetched + found.repo.received, found.repo.requests)


def open_to_stream(source: str, place: Place = Place(), *, check: Check = lambda facts: None) -> Checkpoint:
    """The checkpoint of a Hub id with all its files but the weights, and its `repo` to stream those from.

    `repo` is None where the weights lie in the cache already. UsageError for a folder, which needs no streaming.
    """
    found = resolve(source, place, weights=False, check=check)
    if found.repo is None:
        raise UsageError(f"--stream is for a Hub id, and {source} is on this disk: leave it out.")
    if is_whole(found.path):
        return found.open()
    if place.local_files_only:
        raise UsageError(f"--stream fetches weights and --local-files-only forbids it; the cache lacks those of {source}. Leave one out.")
    return replace(found.open(remote=True), repo=found.repo)


def model_named(text: str, revision: str | None = None) -> tuple[str, str | None]:
    """The id and the revision of a model that is named by an address of the Hub, hf:// or ID@REVISION; any other text as it is.

    UsageError for the address of a dataset or space, and where another revision is given too.
    """
    found = hub_name(text)
    if found is None:
        return text, revision
    if found.kind not in (None, "model"):
        raise UsageError(f"{shown(text)} is the address of a {found.kind}, not of a model.")
    if found.revision and revision not in (None, found.revision):
        raise UsageError(f"{shown(text)} names a revision, and --revision names another: give one of them.")
    return found.id, found.revision or revision


def _kind(path: Path) -> int | None:
    """What lies at a path (stat.S_IFDIR, stat.S_IFREG, …), None for nothing; SourceError if it may not be looked at."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise SourceError(f"{path}: cannot look at it: {error.strerror}. {to_read(error)}") from error


def _nearest(missing: Path) -> str | None:
    """The folder beside a name that nothing has, or mini, that was meant; None if none is near."""
    names = ["mini"] * (len(missing.parts) == 1)
    with suppress(OSError), os.scandir(missing.parent) as entries:
        names += [entry.name for entry in islice(entries, MAX_NEIGHBOURS) if entry.is_dir()]
    nearest = get_close_matches(missing.name, names, n=1)
    return str(missing.with_name(nearest[0])) if nearest else None


def _from_hub(cache: Cache, revision: str | None, small: Sequence[str], weights: bool, check: Check) -> ResolvedSource:
    """Fetch one commit: the small files first, and the weights only once they have shown that it can be pruned."""
    commit = cache.commit(revision)
    known = [name for name in DESCRIPTION if cache.has(commit, name)]
    path = cache.fetch(commit, small)
    if path.is_dir():
        refuse_foreign(path, os.listdir(path), weights=False)
        config, where = read_config(path), f"{cache.repo}/{CONFIG}"
        if weights or not quantization_of(family_for(config, where), config):  # else opening it says more
            check(model_facts(config, SourceRef(cache.repo, commit, ""), where))
        path = cache.fetch(commit, WEIGHT_FILES) if weights else path
    fetched = tuple(name for name in DESCRIPTION if name not in known and (path / name).is_file())
    return ResolvedSource(cache.repo, path, commit, fetched, RemoteRepo(cache.repo, commit, token=cache.token, inner=cache.inner))


def published_record(model: ResolvedSource | Checkpoint, name: str, limit: int, *, local_files_only: bool = False) -> Path | None:
    """A record published with a model; that of a Hub id is fetched if the cache lacks it. None where there is none.

    SourceError if the Hub does not give it, CheckpointError if it has more than `limit` bytes.
    """
    from huggingface_hub import constants

    if (local := model.path / RECORDS / name).is_file():
        return local
    if model.commit is None or local_files_only or constants.is_offline_mode():
        return None
    if (file := RemoteRepo(model.id, model.commit).files.get(f"{RECORDS}/{name}")) is None:
        return None
    if file.size > limit:
        raise CheckpointError(f"{file.where}: {file.size:,} bytes is no record; at most {limit:,} are read.")
    return Cache(model.id).fetch(model.commit, [file.name]) / file.name
