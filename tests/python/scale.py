"""Creates, exports and deletes many volumes through gRPC and prints how long it took.

usage: scale.py ADDRESS COUNT make|remove

make: COUNT memory volumes, one subsystem for each 100 of them, and a namespace for each.
remove: all of them again. Prints the seconds as the last line.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from pydpu.proto.v1 import (
    backend_malloc_pb2,
    backend_malloc_pb2_grpc,
    frontend_nvme_pb2,
    frontend_nvme_pb2_grpc,
)

# Namespaces of one subsystem.
PER_SUBSYSTEM = 100
# Calls under way at once: one client that does not wait for each answer.
AT_ONCE = 8


def main():
    address, count, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    channel = grpc.insecure_channel(address)
    volumes = backend_malloc_pb2_grpc.MallocVolumeServiceStub(channel)
    nvme = frontend_nvme_pb2_grpc.FrontendNvmeServiceStub(channel)
    subsystems = (count + PER_SUBSYSTEM - 1) // PER_SUBSYSTEM

    def subsystem(n):
        spec = frontend_nvme_pb2.NvmeSubsystemSpec(nqn=f"nqn.2026-01.org.example:scale{n}")
        nvme.CreateNvmeSubsystem(
            frontend_nvme_pb2.CreateNvmeSubsystemRequest(
                nvme_subsystem_id=f"s{n}",
                nvme_subsystem=frontend_nvme_pb2.NvmeSubsystem(spec=spec),
            )
        )

    def volume(n):
        volumes.CreateMallocVolume(
            backend_malloc_pb2.CreateMallocVolumeRequest(
                malloc_volume_id=f"v{n}",
                malloc_volume=backend_malloc_pb2.MallocVolume(block_size=4096, blocks_count=256),
            )
        )

    def namespace(n):
        spec = frontend_nvme_pb2.NvmeNamespaceSpec(volume_name_ref=f"mallocVolumes/v{n}")
        nvme.CreateNvmeNamespace(
            frontend_nvme_pb2.CreateNvmeNamespaceRequest(
                parent=f"nvmeSubsystems/s{n // PER_SUBSYSTEM}",
                nvme_namespace_id=f"n{n}",
                nvme_namespace=frontend_nvme_pb2.NvmeNamespace(spec=spec),
            )
        )

    def no_namespace(n):
        name = f"nvmeSubsystems/s{n // PER_SUBSYSTEM}/nvmeNamespaces/n{n}"
        nvme.DeleteNvmeNamespace(frontend_nvme_pb2.DeleteNvmeNamespaceRequest(name=name))

    def no_volume(n):
        name = f"mallocVolumes/v{n}"
        volumes.DeleteMallocVolume(backend_malloc_pb2.DeleteMallocVolumeRequest(name=name))

    def no_subsystem(n):
        name = f"nvmeSubsystems/s{n}"
        nvme.DeleteNvmeSubsystem(frontend_nvme_pb2.DeleteNvmeSubsystemRequest(name=name))

    steps = {
        "make": [(subsystem, subsystems), (volume, count), (namespace, count)],
        "remove": [(no_namespace, count), (no_volume, count), (no_subsystem, subsystems)],
    }
    # The connection itself is not what is measured.
    grpc.channel_ready_future(channel).result(timeout=30)
    start = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for step, times in steps[what]:
            list(pool.map(step, range(times)))
            print(f"{step.__name__}: {time.monotonic() - start:.2f} s")
    print(f"{time.monotonic() - start:.2f}")


main()
