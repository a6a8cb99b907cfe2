"""DTensors of torch (FSDP2, tensor parallel): which part of the whole tensor this rank has."""

from __future__ import annotations

from typing import Any, Optional, Tuple

from .publisher_parts import Part


def is_dtensor(tensor: Any) -> bool:
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements") and hasattr(tensor, "to_local")


def local_part(tensor: Any) -> Tuple[Tuple[int, ...], Optional[Part], Any]:
    """The whole shape, the part that this rank gives, and its local tensor. None for the part if another rank gives it: what is
    replicated along a dimension of the mesh is given by the first rank of that dimension.

    Raises `ValueError` for placements that are no plain shards and replicas.
    """
    shape = tuple(tensor.shape)
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    starts, lengths = [0] * len(shape), list(shape)
    gives = coordinate is not None
    for dim, placement in enumerate(tensor.placements):
        kind = type(placement).__name__
        if coordinate is None:
            break
        if kind == "Shard":
            size, index = mesh.size(dim), coordinate[dim]
            along = placement.dim % len(shape)
            # As torch.chunk cuts: the last ones may be shorter, or empty.
            step = -(-lengths[along] // size)
            start = min(index * step, lengths[along])
            starts[along] += start
            lengths[along] = min(step, lengths[along] - start)
        elif kind == "Replicate":
            gives = gives and coordinate[dim] == 0
        else:
            raise ValueError(f"it is a DTensor with the placement {placement}; give its full_tensor()")
    local = tensor.to_local()
    if not gives or 0 in lengths and 0 not in shape:
        return shape, None, local
    if tuple(local.shape) != tuple(lengths):
        raise ValueError(f"its shard is {list(local.shape)}, and by its placements {lengths}; give its full_tensor()")
    return shape, Part(tuple(starts), tuple(lengths)), local
