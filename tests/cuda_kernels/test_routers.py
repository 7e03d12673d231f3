"""The results of the routers' CUDA kernels."""

import device_routers


class TestSparseMixer(device_routers.SparseMixer):
    pass


class TestTopkRouter(device_routers.TopkRouter):
    pass


class TestDispatchPlan(device_routers.DispatchPlan):
    pass
