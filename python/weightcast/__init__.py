"""The engine's half of weightcast. `weightcast.worker` is what vLLM and SGLang are given."""

__version__ = "0.1.0"
