"""Checkpoints on disk: find one, open it without reading its tensors, rewrite it without some layers, prove the result.

    source.resolve        a folder, `mini` or a Hub id -> a folder
    index.Checkpoint      a folder -> what is in it, proved complete
    rewrite.rewrite       a checkpoint and a plan -> the pruned checkpoint, whole or not at all
    verify.verify         a pruned checkpoint, and its source if at hand -> the differences

Of a repository on the Hub the weights can stay there: source.open_without_weights, verify.verify_remote, and stream, which
brings them to `rewrite` one file at a time. What is asked of the Hub is asked by the room `hub`.

Below all: header, shards (with the fingerprint), completeness and files (what is believed of untrusted files), config, layout,
copying, page_cache (what is written), output_place, staging, exchange, lock (how it appears), remedies, side_files, provenance,
recognise.
"""
