"""Checkpoints on disk: find one, open it without reading its tensors, rewrite it without some layers, prove the result.

    source.resolve        a folder, `mini` or a Hub id -> a folder
    index.Checkpoint      a folder -> what is in it, proved complete
    rewrite.rewrite       a checkpoint and a plan -> the pruned checkpoint, whole or not at all
    verify.verify         a pruned checkpoint, and its source if at hand -> the differences

Below these: header, shards, completeness (what is believed of a stranger's files), config, layout, copying (what is
written), staging, lock (how it appears), fingerprint, side_files, provenance, recognise, folder.
"""
