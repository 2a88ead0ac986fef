"""Makes the calls of the reference Go client's `storage test`, with its values and its one
assertion: that the name answered is the name expected.

usage: storage_test.py ADDRESS FILE ARRAY NOT_YET

FILE takes the place of the client's /tmp/aio_bdev_file, ARRAY that of the host it looks up. NOT_YET
lists, with commas, the blocks that the server does not implement yet: each of them must answer
UNIMPLEMENTED to its first call, and every other block must go through. The server needs volumes
Malloc0 to Malloc2 and the reference bridge's names.
"""

import base64
import sys
import uuid

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

PACKAGE = "opi_api.storage.v1"
HOST = "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c"
PSK = "NVMeTLSkey-1:01:MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmZwJEiQ:"
UUID = "1b4e28ba-2fa1-11d2-883f-b9a761bde3fb"
ALL = "*"


class Server:
    """Calls any method by its name, with messages as the server itself describes them."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def call(self, service, method, **fields):
        found = self.pool.FindServiceByName(f"{PACKAGE}.{service}").methods_by_name[method]
        ask = message_factory.GetMessageClass(found.input_type)
        answer = message_factory.GetMessageClass(found.output_type)
        stub = self.channel.unary_unary(
            f"/{PACKAGE}.{service}/{method}",
            request_serializer=ask.SerializeToString,
            response_deserializer=answer.FromString,
        )
        return stub(json_format.ParseDict(fields, ask()), timeout=10)


class Kind:
    """The calls for resources of one kind."""

    def __init__(self, server, service, name, prefix="volumes/"):
        self.server, self.service, self.name, self.prefix = server, service, name, prefix
        self.field = "".join("_" + c.lower() if c.isupper() else c for c in name).strip("_")

    def call(self, verb, plural="", **fields):
        return self.server.call(self.service, verb + self.name + plural, **fields)

    def create(self, wanted, resource, **more):
        """`wanted` is the id asked for; with an empty one the server must choose a UUID."""
        made = self.call("Create", **{f"{self.field}_id": wanted, self.field: resource}, **more)
        chosen = made.name.rsplit("/", 1)[-1]
        expected = wanted or str(uuid.UUID(chosen))
        assert made.name == self.prefix + expected, f"{made.name} for id {wanted!r}"
        return made.name

    def update(self, name, resource):
        return self.call("Update", **{self.field: {"name": name, **resource}, "update_mask": ALL})

    def look(self, name, parent=None):
        """List, get and stats; a kind without a parent is listed with none."""
        self.call("List", "s", **({"parent": parent} if parent else {}))
        read = self.call("Get", name=name)
        self.call("Stats", name=name)
        return read

    def delete(self, name):
        self.call("Delete", name=name)

    def rounds(self, ident, resource, change=None, tolerated=False, parent=None):
        """Twice, the second time without an id: create, update, look, delete."""
        # Only what is below something is created with a parent; some lists want one all the same.
        below = {} if self.prefix.count("/") == 1 else {"parent": parent}
        for wanted in (ident, ""):
            name = self.create(wanted, resource, **below)
            if change is not None:
                try:
                    self.update(name, change)
                except grpc.RpcError:
                    if not tolerated:
                        raise
            yield self.look(name, parent)
            self.delete(name)


def every(rounds):
    for _ in rounds:
        pass


def subsystem_spec(number):
    return {
        "model_number": "OPI Model",
        "serial_number": "OPI SN",
        "max_namespaces": 10,
        "hostnqn": HOST,
        "nqn": f"nqn.2022-09.io.spdk:opi{number}",
    }


def controller_spec(queues):
    nsq, ncq, sqes, cqes = queues
    return {
        "trtype": "NVME_TRANSPORT_TYPE_TCP",
        "fabrics_id": {
            "traddr": "127.0.0.1",
            "trsvcid": "4421",
            "adrfam": "NVME_ADDRESS_FAMILY_IPV4",
        },
        "max_nsq": nsq,
        "max_ncq": ncq,
        "sqes": sqes,
        "cqes": cqes,
        "nvme_controller_id": 1,
    }


def frontend_nvme(server, service, _):
    subsystems = Kind(server, service, "NvmeSubsystem", "nvmeSubsystems/")
    change = {"spec": {"nqn": subsystem_spec(3)["nqn"]}}
    for seen in subsystems.rounds(
        "subsystem-test", {"spec": subsystem_spec(3)}, change, tolerated=True
    ):
        assert seen.spec.nqn == subsystem_spec(3)["nqn"], seen

    parent = subsystems.create("controller-test-ss", {"spec": subsystem_spec(2)})
    controllers = Kind(server, service, "NvmeController", parent + "/nvmeControllers/")
    before, after = ({"spec": controller_spec(q)} for q in ((5, 6, 7, 8), (8, 7, 6, 5)))
    every(controllers.rounds("controller-test", before, after, parent=parent))
    subsystems.delete(parent)


def frontend_namespace(server, service, _):
    subsystems = Kind(server, service, "NvmeSubsystem", "nvmeSubsystems/")
    parent = subsystems.create("namespace-test-ss", {"spec": subsystem_spec(1)})
    controllers = Kind(server, service, "NvmeController", parent + "/nvmeControllers/")
    listener = {"spec": controller_spec((5, 6, 7, 8))}
    listener = controllers.create("namespace-test-ctrler", listener, parent=parent)
    namespaces = Kind(server, service, "NvmeNamespace", parent + "/nvmeNamespaces/")
    spec = {
        "volume_name_ref": "Malloc1",
        "uuid": UUID,
        "nguid": UUID,
        "eui64": 1967554867335598546,
        "host_nsid": 1,
    }
    for wanted in ("namespace-test", ""):
        name = namespaces.create(wanted, {"spec": spec}, parent=parent)
        namespaces.update(name, {"spec": spec})
        namespaces.look(name, parent)
        namespaces.delete(name)
    controllers.delete(listener)
    subsystems.delete(parent)


def endpoint(port, function, virtual):
    return {"port_id": port, "physical_function": function, "virtual_function": virtual}


def virtio_blk(server, service, _):
    disks = Kind(server, service, "VirtioBlk")
    disk = {"volume_name_ref": "Malloc1", "pcie_id": endpoint(0, 1, 0)}
    every(disks.rounds("opi-virtio-blk8", disk, {}, tolerated=True))


def scsi_controller(server, service, _):
    device = {"pcie_id": endpoint(3, 1, 2)}
    controllers = Kind(server, service, "VirtioScsiController")
    every(controllers.rounds("opi-virtio-scsi8", device, device, parent="todo"))


def scsi_lun(server, service, _):
    ident = "opi-virtio-scsi8"
    controllers = Kind(server, service, "VirtioScsiController")
    controllers.create(ident, {"pcie_id": endpoint(3, 1, 2)})
    luns = Kind(server, service, "VirtioScsiLun")
    lun = {"target_name_ref": ident, "volume_name_ref": "Malloc1"}
    name = luns.create(ident, lun)
    luns.update(name, lun)
    luns.look(name, name)
    luns.delete(name)
    # By the name of the LUN: both are `volumes/opi-virtio-scsi8`.
    controllers.delete(name)


def remote(psk=b""):
    tcp = {"hdgst": False, "ddgst": False, "psk": base64.b64encode(psk).decode()}
    return {"multipath": "NVME_MULTIPATH_MULTIPATH", "tcp": tcp}


def remote_controller(server, service, _):
    controllers = Kind(server, service, "NvmeRemoteController", "nvmeRemoteControllers/")
    for wanted in ("opi-nvme8", ""):
        name = controllers.create(wanted, remote())
        controllers.call("Reset", name=name)
        controllers.look(name)
        controllers.delete(name)


def paths(server, service, array, port, psk):
    controllers = Kind(server, service, "NvmeRemoteController", "nvmeRemoteControllers/")
    parent = controllers.create("opi-nvme8", remote(psk))
    kind = Kind(server, service, "NvmePath", parent + "/nvmePaths/")
    path = {
        "trtype": "NVME_TRANSPORT_TYPE_TCP",
        "traddr": array,
        "fabrics": {
            "adrfam": "NVME_ADDRESS_FAMILY_IPV4",
            "trsvcid": port,
            "subnqn": "nqn.2016-06.io.spdk:cnode1",
            "hostnqn": HOST,
        },
    }
    for wanted in ("opi-nvme8-path", ""):
        name = kind.create(wanted, path, parent=parent)
        kind.update(name, path)
        kind.look(name, parent)
        kind.delete(name)
    controllers.delete(parent)


def path(server, service, place):
    paths(server, service, place["array"], 4444, b"")


def path_tls(server, service, place):
    paths(server, service, place["array"], 5555, PSK.encode())


def null_volume(server, service, _):
    kind = Kind(server, service, "NullVolume")
    size = {"block_size": 512, "blocks_count": 64}
    every(kind.rounds("opi-null9", size, {**size, "blocks_count": 128}))


def aio_volume(server, service, place):
    kind = Kind(server, service, "AioVolume")
    file = {"filename": place["file"]}
    every(kind.rounds("opi-aio4", {"block_size": 512, "blocks_count": 12, **file}, file))


def encrypted_volume(server, service, _):
    def volume(end):
        key = base64.b64encode(b"0123456789abcdef0123456789abcd" + end).decode()
        cipher = "ENCRYPTION_TYPE_AES_XTS_128"
        return {"volume_name_ref": "Malloc1", "key": key, "cipher": cipher}

    kind = Kind(server, service, "EncryptedVolume")
    every(kind.rounds("opi-encrypted-volume3", volume(b"ee"), volume(b"ff"), parent="todo"))


def qos_volume(server, service, _):
    def volume(limit):
        return {"volume_name_ref": "Malloc1", "limits": {"max": {limit: 2}}}

    kind = Kind(server, service, "QosVolume")
    before, after = volume("rw_bandwidth_mbs"), volume("rd_bandwidth_mbs")
    every(kind.rounds("opi-qos-volume3", before, after, parent="todo"))


# In the client's order.
BLOCKS = [
    ("subsystem-and-controller", "FrontendNvmeService", frontend_nvme),
    ("namespace", "FrontendNvmeService", frontend_namespace),
    ("virtio-blk", "FrontendVirtioBlkService", virtio_blk),
    ("scsi-controller", "FrontendVirtioScsiService", scsi_controller),
    ("scsi-lun", "FrontendVirtioScsiService", scsi_lun),
    ("remote-controller", "NvmeRemoteControllerService", remote_controller),
    ("path", "NvmeRemoteControllerService", path),
    ("path-tls", "NvmeRemoteControllerService", path_tls),
    ("null", "NullVolumeService", null_volume),
    ("aio", "AioVolumeService", aio_volume),
    ("encrypted", "MiddleendEncryptionService", encrypted_volume),
    ("qos", "MiddleendQosVolumeService", qos_volume),
]


def main():
    address, file, array, not_yet = sys.argv[1:]
    not_yet = set(filter(None, not_yet.split(",")))
    assert not_yet <= {name for name, _, _ in BLOCKS}, f"unknown blocks among {not_yet}"
    server = Server(address)
    for name, service, run in BLOCKS:
        place = {"file": file, "array": array}
        if name in not_yet:
            try:
                run(server, service, place)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNIMPLEMENTED:
                    raise
                continue
            raise AssertionError(f"{name} works: take it out of the list of what does not")
        run(server, service, place)
        print(f"{name}: as the reference client does it")


main()
