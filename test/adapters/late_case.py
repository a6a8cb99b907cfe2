"""The adapters that a framework imports by name import nothing that may be missing, and say so when they are used."""

import sys
from argparse import Namespace

MISSING = ("torch", "numpy", "vllm", "verl", "trl", "miles", "slime", "sglang", "ray", "zmq", "msgpack")


class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())

import weightcast
import weightcast.miles
import weightcast.slime
import weightcast.trl
import weightcast.vllm_plugin

weightcast.vllm_plugin.register()
weightcast.trl.WeightTransfer("http://localhost:8000").destroy()
assert callable(weightcast.connect)
try:
    weightcast.miles.build_protocol(Namespace())
except ModuleNotFoundError as error:
    assert error.name.startswith("miles"), error
else:
    raise AssertionError("there is no miles")
