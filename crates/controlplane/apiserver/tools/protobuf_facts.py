#!/usr/bin/env python3
"""Writes src/protobuf/facts.txt: how Kubernetes' types lie in protobuf messages.

usage: protobuf_facts.py K8S_IO > src/protobuf/facts.txt

K8S_IO holds api, apimachinery, apiextensions-apiserver and kube-aggregator: staging/src/k8s.io of Kubernetes, or
checkouts side by side. From its Go types only facts are taken: message, field number, JSON
name, whether zero counts, and the kind of value. No text is copied. Every stable version of a group that speaks
protobuf (has a generated.proto) is covered, and BETA.

A line is `GROUP/VERSION.MESSAGE` and its fields `NUMBER:NAME:KIND`; an empty name is a message whose members belong to
the object around it. A kind may begin with `[` (list) or `{` (map), then `*` (zero counts); then comes
  s text, b flag, i number, f float, y bytes, t time, u time with microseconds, d duration, q quantity,
  o number or text, r raw JSON, e a list of texts in a message, mN the message of line N (from 0),
  A, B, C a schema or a list of schemas, a flag, a list of names.
"""
import glob
import os
import re
import sys

SPECIAL = {"Time": "t", "MicroTime": "u", "Duration": "d", "Quantity": "q", "IntOrString": "o", "RawExtension": "r",
           "FieldsV1": "r", "JSON": "r", "JSONSchemaPropsOrArray": "A", "JSONSchemaPropsOrBool": "B",
           "JSONSchemaPropsOrStringArray": "C"}
BASIC = {"string": "s", "bool": "b", "int32": "i", "int64": "i", "int": "i", "uint32": "i", "uint8": "i",
         "float64": "f", "byte": "i", "[]byte": "y"}
# What is served before it is stable.
BETA = {("scheduling", "v1beta1")}
# Kinds without metadata of an object that travel by themselves.
EXTRA = ["DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions", "Status", "ListMeta", "APIVersions",
         "APIGroupList", "APIGroup", "APIResourceList", "PartialObjectMetadata"]


def packages(root):
    """Directories of the types, by `group/version`."""
    found = {"meta/v1": f"{root}/apimachinery/pkg/apis/meta/v1"}
    for pattern in ("api/*/v*", "apiextensions-apiserver/pkg/apis/apiextensions/v*",
                    "kube-aggregator/pkg/apis/apiregistration/v*"):
        for path in sorted(glob.glob(f"{root}/{pattern}/generated.proto")):
            group, version = path.split("/")[-3:-1]
            if re.fullmatch(r"v\d+", version) or (group, version) in BETA:
                found[f"{group}/{version}"] = os.path.dirname(path)
    return found


class Types:
    """The structs and named types of all packages."""

    def __init__(self, root):
        self.structs, self.named, self.imports = {}, {}, {}
        where = packages(root)
        short = {"k8s.io/" + os.path.relpath(path, root): key for key, path in where.items()}
        for key, path in where.items():
            imports = {}
            for file in sorted(glob.glob(f"{path}/*.go")):
                if not re.search(r"_test\.go$|generated", os.path.basename(file)):
                    self.read(key, open(file).read(), imports, short)
            self.imports[key] = imports

    def read(self, key, text, imports, short):
        for alias, package in re.findall(r'^\s+(\w*)\s*"([\w./-]+)"$', text, flags=re.M):
            imports[alias or package.rsplit("/", 1)[-1]] = short.get(package)
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        for name, body in re.findall(r"^type (\w+) struct ?\{((?:\n.*?^)?)\}", text, flags=re.S | re.M):
            self.structs[key, name] = body
        for name, kind in re.findall(r"^type (\w+) =? ?([\w.\[\]*]+)$", text, flags=re.M):
            self.named[key, name] = kind
        for block in re.findall(r"^type \(\n(.*?)^\)", text, flags=re.S | re.M):
            for name, kind in re.findall(r"^\s+(\w+) =? ?([\w.]+)$", block, flags=re.M):
                self.named[key, name] = kind

    def locate(self, group, kind):
        """Package and bare name of a Go type; no package for what comes from elsewhere."""
        if "." not in kind:
            return group, kind
        package, kind = kind.split(".")
        return self.imports[group].get(package), kind

    def resolve(self, group, kind):
        """Kind of a Go type: a letter, or m and a struct; nothing for types of groups that are not covered."""
        if kind in BASIC:
            return BASIC[kind]
        outside = "." in kind
        where, bare = self.locate(group, kind)
        if bare in SPECIAL and (outside or group in ("meta/v1", "apiextensions/v1")):
            return SPECIAL[bare]
        if where is None:
            return "s" if kind.startswith("types.") else None
        if bare in ("ExtraValue", "Verbs") or self.named.get((where, bare)) == "[]string":
            return "e"
        if (where, bare) in self.structs:
            return ("m", (where, bare))
        if (where, bare) in self.named:
            return self.resolve(where, self.named[where, bare])
        raise SystemExit(f"unknown type {group} {kind}")

    def underlying(self, group, kind):
        """Follows names of maps and slices."""
        where, bare = self.locate(group, kind)
        while re.match(r"map\[|\[\]", self.named.get((where, bare), "")) and bare not in ("ExtraValue", "Verbs"):
            group, kind = where, self.named[where, bare]
            where, bare = self.locate(group, kind)
        return group, kind


def fields(types, key):
    """The fields of a struct: number, JSON name or nothing, shape, whether zero counts, kind."""
    group, _ = key
    for line in types.structs[key].splitlines():
        found = re.match(r"\s*(?:(\w+)\s+)?([\w.*\[\]]+)\s+`(.*)`", line)
        if not found:
            continue
        _, kind, tags = found.groups()
        number = re.search(r'protobuf:"\w+,(\d+)', tags)
        name = re.search(r'json:"([^",]*)', tags)
        if not number or not name:
            continue
        pointer = kind.startswith("*")
        where, kind = types.underlying(group, kind.lstrip("*"))
        shape = ""
        if kind != "[]byte" and kind.startswith("[]"):
            shape, kind = "[", kind[2:].lstrip("*")
        elif kind.startswith("map["):
            shape, kind = "{", kind.split("]", 1)[1]
            if kind.startswith("[]"):
                # A list inside a map is a message of its own.
                shape, kind = "{", types.named.get((where, kind), kind)
        value = types.resolve(where, kind)
        if value is None:
            continue
        inline = re.search(r'json:"[^"]*,inline"', tags) or not name.group(1)
        yield int(number.group(1)), "" if inline else name.group(1), shape, pointer, value


def main():
    types = Types(sys.argv[1])
    messages = {}

    def visit(key):
        if key in messages:
            return
        messages[key] = list(fields(types, key))
        for *_, value in messages[key]:
            if isinstance(value, tuple):
                visit(value[1])

    for key, body in list(types.structs.items()):
        if "metav1.ObjectMeta" in body and not key[1].endswith("List"):
            visit(key)
        # Reviews that are sent to webhooks, or carry nothing but their question.
        if re.search(r"metav1\.TypeMeta", body) and not key[1].endswith("List") and key[0] != "meta/v1":
            visit(key)
    for extra in EXTRA:
        visit(("meta/v1", extra))
    order = {key: index for index, key in enumerate(sorted(messages))}
    for key in sorted(messages):
        parts = [f"{key[0]}.{key[1]}"]
        for number, name, shape, pointer, value in messages[key]:
            kind = f"m{order[value[1]]}" if isinstance(value, tuple) else value
            parts.append(f"{number}:{name}:{shape}{'*' if pointer else ''}{kind}")
        print(" ".join(parts))


main()
