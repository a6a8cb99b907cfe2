"""Two tensor-parallel workers on the CPU, which has no device that would tell them apart: each takes the link of its rank."""

import os

from weightcast.worker import VllmWorkerExtension


class Extension(VllmWorkerExtension):
    def update_weights_from_weightcast(self, links, *values, **options):
        os.environ["WEIGHTCAST_DEVICE_UUID"] = sorted(links)[self.rank]
        return super().update_weights_from_weightcast(links, *values, **options)
