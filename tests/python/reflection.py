"""Compares what a server's reflection serves with the tables of the OPI interface.

usage: reflection.py ADDRESS FACTS_DIR PACKAGE

FACTS_DIR holds messages.tsv, services.tsv and, where there are any, enums.tsv and
resources.tsv. Both versions of the reflection service are asked; nothing may be missing,
nothing may differ, nothing may be there beside.
"""

import csv
import os
import sys

import grpc
from google.api import annotations_pb2, client_pb2, field_behavior_pb2, resource_pb2
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

SCALARS = {
    value.number: value.name.removeprefix("TYPE_").lower()
    for value in descriptor_pb2.FieldDescriptorProto.Type.DESCRIPTOR.values
}


def ask(channel, version, request):
    """One question to one version of the service; the messages of both are the same."""
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (reply,) = list(call(iter([request])))
    if reply.HasField("error_response"):
        sys.exit(f"{version}: {request}: {reply.error_response}")
    return reply


def served_files(channel, version, package):
    """Every file of the package that one version of the service hands out."""
    listing = ask(channel, version, reflection_pb2.ServerReflectionRequest(list_services=""))
    services = [service.name for service in listing.list_services_response.service]
    files = {}
    for service in services:
        if not service.startswith(package + "."):
            continue
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
        reply = ask(channel, version, request)
        waiting = list(reply.file_descriptor_response.file_descriptor_proto)
        while waiting:
            file = descriptor_pb2.FileDescriptorProto.FromString(waiting.pop())
            if file.name in files:
                continue
            files[file.name] = file
            for needed in file.dependency:
                if needed not in files:
                    request = reflection_pb2.ServerReflectionRequest(file_by_filename=needed)
                    reply = ask(channel, version, request)
                    waiting.extend(reply.file_descriptor_response.file_descriptor_proto)
    return [file for file in files.values() if file.package == package]


def short(name, package):
    return name.removeprefix("." + package + ".").removeprefix(".")


def field_row(message, name, field, package):
    behavior = [
        field_behavior_pb2.FieldBehavior.Name(value)
        for value in field.options.Extensions[field_behavior_pb2.field_behavior]
    ]
    reference = field.options.Extensions[resource_pb2.resource_reference]
    label = ""
    if field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED:
        label = "repeated"
    elif field.proto3_optional:
        label = "optional"
    oneof = ""
    if field.HasField("oneof_index") and not field.proto3_optional:
        oneof = message.oneof_decl[field.oneof_index].name
    kind = short(field.type_name, package) if field.type_name else SCALARS[field.type]
    return (
        name,
        field.name,
        str(field.number),
        label,
        kind,
        oneof,
        ",".join(behavior),
        reference.type or (reference.child_type and "child:" + reference.child_type),
    )


def walk(messages, enums, prefix, found_messages, found_enums):
    for enum in enums:
        found_enums.append((prefix + enum.name, enum))
    for message in messages:
        name = prefix + message.name
        found_messages.append((name, message))
        walk(message.nested_type, message.enum_type, name + ".", found_messages, found_enums)


def rows(files, package):
    """The rows of the four tables, as the files say."""
    tables = {"messages": set(), "enums": set(), "resources": set(), "services": set()}
    for file in files:
        messages, enums = [], []
        walk(file.message_type, file.enum_type, "", messages, enums)
        for name, message in messages:
            for field in message.field:
                tables["messages"].add(field_row(message, name, field, package))
            resource = message.options.Extensions[resource_pb2.resource]
            if resource.type:
                pattern = ",".join(resource.pattern)
                row = (name, resource.type, pattern, resource.singular, resource.plural)
                tables["resources"].add(row)
        for name, enum in enums:
            tables["enums"].update((name, value.name, str(value.number)) for value in enum.value)
        for service in file.service:
            for method in service.method:
                rule = method.options.Extensions[annotations_pb2.http]
                verb = rule.WhichOneof("pattern") or ""
                signature = method.options.Extensions[client_pb2.method_signature]
                tables["services"].add(
                    (
                        service.name,
                        method.name,
                        short(method.input_type, package),
                        short(method.output_type, package),
                        verb.upper(),
                        getattr(rule, verb) if verb else "",
                        rule.body,
                        ";".join(signature),
                    )
                )
    return tables


def facts(folder, table):
    path = os.path.join(folder, table + ".tsv")
    if not os.path.exists(path):
        return None
    with open(path, encoding="ascii") as file:
        lines = list(csv.reader(file, delimiter="\t"))
    width = len(lines[0])
    start = 1 if lines[0][0] == "file" else 0
    # The tables name the message where a field refers to it without its package.
    return {tuple((line + [""] * width)[start:width]) for line in lines[1:]}


def main():
    address, folder, package = sys.argv[1:]
    wrong = 0
    with grpc.insecure_channel(address) as channel:
        for version in ["v1", "v1alpha"]:
            served = rows(served_files(channel, version, package), package)
            for table, found in served.items():
                wanted = facts(folder, table)
                if wanted is None:
                    continue
                for row in sorted(wanted - found):
                    print(f"{version}: {table}: missing: {row}")
                for row in sorted(found - wanted):
                    print(f"{version}: {table}: unexpected: {row}")
                wrong += len(wanted ^ found)
                print(f"{version}: {table}: {len(found)} rows")
    sys.exit(1 if wrong else 0)


main()
