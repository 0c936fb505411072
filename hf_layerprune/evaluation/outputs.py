"""Where an evaluation is written, and what may be there already."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_layerprune.artifacts.eval_report import EvalReport
from hf_layerprune.artifacts.folder import ANSWERS, EVALUATION, MANIFEST, OTHER_ANSWERS, RECORDS
from hf_layerprune.artifacts.jsonfile import dump_json, write_atomic
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.lock import hold
from hf_layerprune.checkpoint.output_place import check_output, parents_made
from hf_layerprune.checkpoint.staging import hidden_beside, staged_folder
from hf_layerprune.errors import ArtifactError, EvaluationError

FILES = (EVALUATION, ANSWERS, OTHER_ANSWERS)


def default_output(checkpoint: Checkpoint) -> Path:
    """`layerprune/` in a folder that we made; `./<name>-eval` for any other model: an untrusted one, mini, or one in the Hub's cache."""
    return checkpoint.path / RECORDS if is_ours(checkpoint) else Path(f"{Path(checkpoint.id).name or 'model'}-eval")


def is_ours(checkpoint: Checkpoint) -> bool:
    """Whether hf-layerprune wrote the folder of a checkpoint here: it was not downloaded, and its records are not a link elsewhere."""
    records, path = checkpoint.path / RECORDS, checkpoint.path.resolve()
    cached = any(folder.parent.name == "snapshots" for folder in (path, *path.parents))
    return checkpoint.commit is None and not cached and not records.is_symlink() and (records / MANIFEST).is_file()


def finished(output: Path, key: str) -> EvalReport | None:
    """The report that is there, if it is of this key and its files of answers are whole."""
    with suppress(ArtifactError, OSError):
        report = EvalReport.load(output / EVALUATION)
        files = zip((ANSWERS, OTHER_ANSWERS), report.models)
        if report.key == key and all(_digest(output / name) == model.answers for name, model in files):
            return report
    return None


def check_evaluation_output(output: Path, checkpoint: Checkpoint, overwrite: bool) -> None:
    """Refuse, before any work, a place that must not be written to, or an evaluation that is not to be replaced.

    EvaluationError or CheckpointError, as `checkpoint.output_place.check_output`.
    """
    own = is_ours(checkpoint) and output.resolve() == (checkpoint.path / RECORDS).resolve()
    if not own and not _holds_an_evaluation(output):
        check_output(output, overwrite=False, source=checkpoint.path)
        return
    if output.is_symlink():
        raise EvaluationError(f"{output} is a link. Name the folder itself.")
    if not os.access(output, os.W_OK | os.X_OK):
        raise EvaluationError(f"{output} is not writable. Choose another place with -o.")
    for name in FILES:
        if os.path.lexists(output / name) and (not (output / name).is_file() or (output / name).is_symlink()):
            raise EvaluationError(f"{output / name} is not a regular file. Remove it, or choose another place with -o.")
    if (output / EVALUATION).exists() and not overwrite:
        raise EvaluationError(
            f"{output / EVALUATION} exists, of other models, samples or settings. Choose another place with -o, or add --overwrite."
        )


@contextmanager
def held(output: Path) -> Iterator[None]:
    """One evaluation at a time into one output; CheckpointError names who holds it."""
    try:
        with parents_made(output), hold(hidden_beside(output, "evaluate.lock"), str(output)):
            yield
    except OSError as error:
        raise EvaluationError(f"{output}: cannot be written: {error.strerror or error}. Choose another place with -o.") from error


def write_evaluation(output: Path, checkpoint: Checkpoint, report: EvalReport, files: Mapping[str, bytes]) -> None:
    """Write the answers, then the report: a new folder whole or not at all; in one that is there file by file, the report last."""
    contents = {**files, EVALUATION: dump_json(report.to_dict())}
    if not output.exists() or not any(output.iterdir()):
        with staged_folder(output, overwrite=False, source=checkpoint.path, needed=sum(map(len, contents.values()))) as staging:
            for name, content in contents.items():
                write_atomic(staging / name, content)
        return
    for name, content in contents.items():
        write_atomic(output / name, content)
    if OTHER_ANSWERS not in files:
        (output / OTHER_ANSWERS).unlink(missing_ok=True)


def _holds_an_evaluation(output: Path) -> bool:
    """Whether a folder holds an evaluation of ours, perhaps not a whole one, and nothing else."""
    if not output.is_dir() or not (names := {path.name for path in output.iterdir()}) or not names <= set(FILES):
        return False
    return all(_is_of_ours(output / name) for name in names)


def _is_of_ours(path: Path) -> bool:
    try:
        if path.name == EVALUATION:
            return EvalReport.load(path) is not None
        with path.open("rb") as file:
            return bool(json.loads(file.readline(1 << 20)).get("kind") == "answers")
    except (ArtifactError, OSError, ValueError, AttributeError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
