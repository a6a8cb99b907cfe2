"""slime's hook, called as slime calls it when the files of a version are written."""

import json
import os
import sys
from argparse import Namespace

import torch
from transformers import AutoModelForCausalLM

from held import check_held
from weightcast.client import DaemonError, UsageError
from weightcast.slime import post_write


def refused(kind, *call):
    try:
        post_write(*call)
    except kind as error:
        assert "\n" not in str(error)
        return str(error)
    raise AssertionError(f"{call[1]} is taken")


def main(given):
    args = Namespace(
        weightcast={"socket": given["socket"], "engines": [given["endpoint"]], "update": {"timeout": 100.0}}
    )
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.bfloat16)
    for step in (1, 2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        directory = os.path.join(given["scratch"], f"weight_v{step:06d}")
        # Several files with an index, as slime writes them, and then one without.
        model.save_pretrained(directory, max_shard_size="2MB" if step == 1 else "1GB")
        post_write(args, directory, [])
        check_held(given["endpoint"], dict(model.named_parameters()))

    # The directory of the versions, before there is one.
    os.mkdir(os.path.join(given["scratch"], "none"))
    post_write(args, os.path.join(given["scratch"], "none"), [])

    delta = os.path.join(given["scratch"], "delta")
    os.mkdir(delta)
    with open(os.path.join(delta, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {"delta_encoding": "xor"}, "weight_map": {}}, file)
    assert "is a delta" in refused(UsageError, args, delta, [])
    with open(os.path.join(delta, "model.safetensors.index.json"), "w") as file:
        file.write("[")
    assert "cannot be read" in refused(DaemonError, args, delta, [])


main(json.loads(sys.argv[1]))
