"""Drives a server with the library classes of the upstream Python client, pydpu.

usage: pydpu_subsystems.py ADDRESS VOLUME

VOLUME is a volume that exists, for a namespace. Every expectation is an assertion; the exit
status is 0 only if all hold.
"""

import sys

import grpc
from pydpu.storage import NvmeNamespace, NvmeSubsystem


def refused(code, call, *arguments):
    """The call fails, and with this code."""
    try:
        call(*arguments)
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} instead of {code}: {error.details()}"
        assert error.details(), "an error without a message"
        return
    raise AssertionError(f"{call} succeeded; {code} was expected")


def main():
    address, volume = sys.argv[1:]
    made = [
        NvmeSubsystem(nqn=f"nqn.2022-09.io.spdk:opi{n}", serial=f"SN{n}", ns=n + 10)
        for n in range(3)
    ]
    for subsystem in made:
        reply = subsystem.create(address)
        assert reply.name == subsystem.name, reply
        assert reply.spec.nqn == subsystem.nqn, reply
        assert reply.status.firmware_revision, "the reply carries no firmware revision"
        assert subsystem.create(address).name == subsystem.name, "creating again is the same"

    names = [subsystem.name for subsystem in made]
    listed = [entry.name for entry in made[0].list(address).nvme_subsystems]
    assert sorted(listed) == sorted(names), f"{listed} instead of {names}"

    for n, subsystem in enumerate(made):
        read = subsystem.get(address)
        assert read.spec.serial_number == f"SN{n}", read
        assert read.spec.max_namespaces == n + 10, read
        stats = subsystem.stats(address)
        assert stats.stats.read_ops_count == 0, stats

    # "*" replaces the whole specification with the same one.
    assert made[1].update(address).spec.nqn == made[1].nqn

    namespace = NvmeNamespace(made[0], volume)
    reply = namespace.create(address)
    assert reply.name == namespace.name, reply
    assert reply.spec.host_nsid == 1, reply
    assert [entry.name for entry in namespace.list(address).nvme_namespaces] == [namespace.name]
    assert namespace.get(address).spec.volume_name_ref == reply.spec.volume_name_ref
    assert namespace.stats(address).stats.write_ops_count == 0
    refused(grpc.StatusCode.FAILED_PRECONDITION, made[0].delete, address)
    namespace.delete(address)

    twin = NvmeSubsystem(nqn=made[0].nqn)
    refused(grpc.StatusCode.ALREADY_EXISTS, twin.create, address)
    for subsystem in made:
        subsystem.delete(address)
        refused(grpc.StatusCode.NOT_FOUND, subsystem.get, address)
        refused(grpc.StatusCode.NOT_FOUND, subsystem.delete, address)
    assert not made[0].list(address).nvme_subsystems
    print("pydpu: created, listed, read, counted and deleted")


main()
