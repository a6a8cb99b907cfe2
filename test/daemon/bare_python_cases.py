"""What of the package works where there is neither torch nor numpy, pyzmq or msgpack: run with -S, which leaves out all that is installed."""

import subprocess
import sys

#: Each needs what is not there for its work, but not to say what its options are.
PROGRAMS = ("update", "examples.engine", "examples.trainer_loop")
#: What users import: these need nothing.
IMPORTED = (
    "weightcast",
    "weightcast.client",
    "weightcast.compat",
    "weightcast.miles",
    "weightcast.publisher",
    "weightcast.quantize",
    "weightcast.ray",
    "weightcast.sglang_plugin",
    "weightcast.slime",
    "weightcast.torchrun",
    "weightcast.trl",
    "weightcast.vllm_plugin",
)
#: And these are of a framework's own classes.
OF_FRAMEWORKS = ("weightcast.compat.ParameterServer", "weightcast.verl", "weightcast.vllm_trainer")


def python(*words):
    ran = subprocess.run([sys.executable, "-S", *words], capture_output=True, text=True)
    return ran.returncode, ran.stdout, ran.stderr


def help_of(program):
    status, output, errors = python("-m", f"weightcast.{program}", "--help")
    assert status == 0 and "usage:" in output and errors == "", (program, status, output, errors)


def ends(program, *words):
    """In one line that says what it needs."""
    status, output, errors = python("-m", f"weightcast.{program}", *words)
    assert status == 1 and output == "" and errors.count("\n") == 1, (program, status, output, errors)
    assert " needs " in errors and "is not installed for" in errors, (program, errors)


def imports(code):
    status, _, errors = python("-c", code)
    assert status == 0, (code, errors)


def main():
    for program in PROGRAMS:
        help_of(program)
    ends("update", "--checkpoint-path", "/tmp")
    ends("examples.engine")
    ends("examples.trainer_loop")
    ends("sglang", "--model-path", "/tmp")
    imports("\n".join(f"import {module}" for module in IMPORTED))
    imports("from weightcast import sglang_plugin, vllm_plugin\nsglang_plugin.register()\nvllm_plugin.register()")
    for name in OF_FRAMEWORKS:
        module, _, member = name.rpartition(".")
        _, _, errors = python("-c", f"from {module} import {member}")
        assert f"ModuleNotFoundError: {name} needs " in errors, errors
    status, _, errors = python("-m", "weightcast.update", "--checkpoint-path", "/tmp", "--timeout", "nan")
    assert status == 2 and "'nan' is no number of seconds" in errors, errors


if __name__ == "__main__":
    main()
