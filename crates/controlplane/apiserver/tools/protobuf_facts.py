#!/usr/bin/env python3
"""Writes src/protobuf/facts.txt: how Kubernetes' types lie in protobuf messages.

usage: protobuf_facts.py API_CHECKOUT APIMACHINERY_CHECKOUT > src/protobuf/facts.txt

The checkouts are git repositories of k8s.io/api and k8s.io/apimachinery. From their Go types only facts are taken:
message, field number, JSON name, whether zero counts, and the kind of value. No text is copied.
"""
import re
import subprocess
import sys

API = ["core/v1", "apps/v1", "batch/v1", "authentication/v1", "authorization/v1", "autoscaling/v1", "autoscaling/v2",
       "coordination/v1", "discovery/v1", "events/v1", "policy/v1", "networking/v1", "rbac/v1", "scheduling/v1",
       "storage/v1", "node/v1", "admissionregistration/v1", "certificates/v1",
       "flowcontrol/v1", "resource/v1", "storagemigration/v1"]
SPECIAL = {"Time": "t", "MicroTime": "u", "Duration": "d", "Quantity": "q", "IntOrString": "o", "RawExtension": "r",
           "FieldsV1": "x"}
BASIC = {"string": "s", "bool": "b", "int32": "i", "int64": "i", "int": "i", "uint32": "i", "uint8": "i",
         "float64": "f", "byte": "i", "[]byte": "y"}
ALIASES = {"metav1": "meta/v1", "v1": "core/v1", "corev1": "core/v1", "api": "core/v1", "apiv1": "core/v1"}


def show(repo, path):
    return subprocess.run(["git", "-C", repo, "show", f"HEAD:{path}"], capture_output=True, text=True, check=True).stdout


def main():
    sources = {group: show(sys.argv[1], f"{group}/types.go") for group in API}
    sources["meta/v1"] = "".join(
        show(sys.argv[2], f"pkg/apis/meta/v1/{name}.go") for name in ("types", "group_version"))
    structs, named = {}, {}
    for group, text in sources.items():
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, flags=re.S | re.M):
            structs[group, name] = body
        for name, kind in re.findall(r"^type (\w+) =? ?([\w.\[\]*]+)$", text, flags=re.M):
            named[group, name] = kind
        for block in re.findall(r"^type \(\n(.*?)^\)", text, flags=re.S | re.M):
            for name, kind in re.findall(r"^\s+(\w+) =? ?([\w.]+)$", block, flags=re.M):
                named[group, name] = kind

    def resolve(group, kind):
        """Kind of a Go type: a letter, or m and a struct."""
        if kind in BASIC:
            return BASIC[kind]
        if "." in kind:
            package, kind = kind.split(".")
            if kind in SPECIAL:
                return SPECIAL[kind]
            if package in ("types",):
                return "s"
            if package not in ALIASES:
                return None
            group = ALIASES[package]
        if group == "meta/v1" and kind in SPECIAL:
            return SPECIAL[kind]
        if kind in ("ExtraValue", "Verbs") or named.get((group, kind)) == "[]string":
            return "e"
        if (group, kind) in structs:
            return ("m", (group, kind))
        if (group, kind) in named:
            return resolve(group, named[group, kind])
        raise SystemExit(f"unknown type {group} {kind}")

    def underlying(group, kind):
        """Follows names of maps and slices."""
        where, bare = group, kind
        if "." in kind:
            package, bare = kind.split(".")
            where = ALIASES.get(package, group)
        while (where, bare) in named and re.match(r"map\[|\[\]", named[where, bare]) and bare not in ("ExtraValue", "Verbs"):
            return where, named[where, bare]
        return group, kind

    messages = {}

    def visit(key):
        if key in messages:
            return
        messages[key] = fields = []
        group, _ = key
        for line in structs[key].splitlines():
            line = line.split("//")[0].strip() if "`" not in line else line.strip()
            found = re.match(r"(?:(\w+)\s+)?([\w.*\[\]]+)\s+`(.*)`", line)
            if not found:
                continue
            _, kind, tags = found.groups()
            number = re.search(r'protobuf:"\w+,(\d+)', tags)
            name = re.search(r'json:"([^",]*)', tags)
            if not number:
                continue
            pointer = kind.startswith("*")
            kind = kind.lstrip("*")
            where, kind = underlying(group, kind)
            shape = ""
            if kind != "[]byte" and kind.startswith("[]"):
                shape, kind = "[", kind[2:].lstrip("*")
            elif kind.startswith("map["):
                shape, kind = "{", kind.split("]", 1)[1]
            value = resolve(where, kind)
            if value is None:
                # A type of an alpha group, which is not served.
                continue
            inline = "inline" in tags or not name.group(1)
            if isinstance(value, tuple):
                visit(value[1])
            fields.append((int(number.group(1)), "" if inline else name.group(1), shape, pointer, value))

    roots = [key for key, body in structs.items()
             if "metav1.ObjectMeta" in body and not key[1].endswith("List")]
    for key in roots:
        visit(key)
    for extra in ("DeleteOptions",):
        visit(("meta/v1", extra))
    order = {key: index for index, key in enumerate(sorted(messages))}
    for key in sorted(messages):
        parts = [f"{key[0]}.{key[1]}"]
        for number, name, shape, pointer, value in messages[key]:
            kind = f"m{order[value[1]]}" if isinstance(value, tuple) else value
            parts.append(f"{number}:{name}:{shape}{'*' if pointer else ''}{kind}")
        print(" ".join(parts))


main()
