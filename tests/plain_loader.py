"""Run by tests in a process of its own, which cannot import this package: load a folder with plain transformers and generate.

Arguments: the folder, a file of inputs that torch.load reads. Prints one JSON object.
"""

import json
import sys

sys.modules["hf_layerprune"] = None  # type: ignore[assignment]  # every import of it fails

import torch  # noqa: E402
from transformers import AutoModel, AutoModelForImageTextToText  # noqa: E402

folder, inputs = sys.argv[1], torch.load(sys.argv[2], weights_only=True)
torch.set_num_threads(1)
report = {}
for kind in (AutoModelForImageTextToText, AutoModel):
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    report[kind.__name__] = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if kind is AutoModelForImageTextToText:
        report["class"], report["layers"] = type(model).__name__, model.config.text_config.num_hidden_layers
        for name, use_cache in (("cached", True), ("uncached", False)):
            # A random model may well utter an image token, for which there would be no picture.
            options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "suppress_tokens": [model.config.image_token_id]}
            tokens = model.eval().generate(**inputs, **options, use_cache=use_cache)
            report[name] = tokens[0, inputs["input_ids"].shape[1] :].tolist()
try:
    import hf_layerprune  # noqa: F401
except ImportError:
    report["alone"] = True
print(json.dumps(report))
