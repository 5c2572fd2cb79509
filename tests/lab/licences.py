#!/usr/bin/python3
"""Checks the licence and the source of every dependency against deny.toml.

    tests/lab/licences.py [--self-test]

Reads `cargo metadata` (the lock file's versions, for the targets deny.toml names) and needs no
network. Exit 0: all allowed; 1: something is not, each on a line of its own; 2: it could not look.
Understood of deny.toml: graph.targets, licenses.allow, licenses.exceptions, sources.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def allowed(expression, licences):
    """Whether an SPDX expression can be met with the given licences. Raises ValueError if unreadable."""
    # Old crates write "MIT/Apache-2.0" where SPDX has OR.
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def take(*wanted):
        if tokens and (not wanted or tokens[0] in wanted):
            return tokens.pop(0)
        return None

    def either():
        met = both()
        while take("OR"):
            met = both() or met
        return met

    def both():
        met = one()
        while take("AND"):
            met = one() and met
        return met

    def one():
        if take("("):
            met = either()
            if not take(")"):
                raise ValueError(expression)
            return met
        name = take()
        if name in (None, ")", "AND", "OR", "WITH"):
            raise ValueError(expression)
        if take("WITH"):
            exception = take()
            if exception in (None, "(", ")", "AND", "OR", "WITH"):
                raise ValueError(expression)
            name = f"{name} WITH {exception}"
        return name in licences

    met = either()
    if tokens:
        raise ValueError(expression)
    return met


def problems(metadata, rules):
    """Lines that say what is wrong with the packages that cargo resolved."""
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    general = set(rules["licenses"]["allow"])
    special = {e.get("crate", e.get("name")): set(e["allow"]) for e in rules["licenses"].get("exceptions", [])}
    registries = {f"registry+{url}" for url in rules["sources"]["allow-registry"]}
    packages = [package for package in metadata["packages"] if package["id"] in used]
    for package in packages:
        name = f"{package['name']} {package['version']}"
        source = package["source"]
        if source is not None and source not in registries:
            yield f"{name}: comes from {source}"
        licence = package["license"]
        if licence is None:
            yield f"{name}: names no licence (file: {package['license_file']})"
            continue
        try:
            if not allowed(licence, general | special.get(package["name"], set())):
                yield f"{name}: licence {licence} is not allowed in deny.toml"
        except ValueError:
            yield f"{name}: licence {licence!r} cannot be read"
    for name in sorted(special.keys() - {package["name"] for package in packages}):
        yield f"{name}: has an exception in deny.toml and is not used"


def self_test():
    have = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"}
    for expression, expected in {
        "MIT": True,
        "GPL-3.0": False,
        "MIT/Apache-2.0": True,
        "GPL-3.0 OR MIT": True,
        "MIT AND GPL-3.0": False,
        "(MIT OR GPL-3.0) AND Apache-2.0": True,
        "MIT AND (GPL-3.0 OR Zlib)": False,
        "MIT OR GPL-3.0 AND Zlib": True,
        "Apache-2.0 WITH LLVM-exception": True,
        "Apache-2.0 WITH Classpath-exception-2.0": False,
    }.items():
        assert allowed(expression, have) is expected, expression
    for unreadable in ("", "MIT OR", "(MIT", "MIT Apache-2.0", "WITH x", "MIT WITH"):
        try:
            allowed(unreadable, have)
        except ValueError:
            continue
        raise AssertionError(unreadable)


def main():
    self_test()
    if sys.argv[1:] == ["--self-test"]:
        return 0
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    for target in rules["graph"]["targets"]:
        command += ["--filter-platform", target]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)
    if ran.returncode:
        return 2
    metadata = json.loads(ran.stdout)
    found = list(problems(metadata, rules))
    for line in found:
        print(f"licences: {line}", file=sys.stderr)
    print(f"licences: {len(metadata['resolve']['nodes'])} packages, {len(found)} problems")
    return 1 if found else 0


sys.exit(main())
