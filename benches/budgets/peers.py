"""What the bench has python-libvirt do: one process, one connection, one command per line.

Each reply is one line of JSON. Times are taken here, round the libvirt calls alone.
"""

import json
import statistics
import sys
import time

import libvirt

libvirt.registerErrorHandler(lambda _context, _error: None, None)
connection = libvirt.open(sys.argv[1])


def timed(work):
    begun = time.perf_counter_ns()
    result = work()
    return (time.perf_counter_ns() - begun) / 1e6, result


def define(template, first, count):
    """Defines `count` domains; `@@` in the template stands for the number."""
    for number in range(first, first + count):
        connection.defineXML(template.replace("@@", f"{number:04}"))
    return {"domains": connection.numOfDefinedDomains() + connection.numOfDomains()}


def listing():
    """What a client needs to know of every domain, as libvirt's own binding gives it."""
    return [
        (domain.name(), domain.UUIDString(), domain.info(), domain.autostart(),
         domain.isPersistent(), domain.XMLDesc(0))
        for domain in connection.listAllDomains(0)
    ]


def bulk():
    return connection.getAllDomainStats(0, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)


def repeat(work, rounds):
    times, count = [], 0
    for _ in range(rounds):
        took, result = timed(work)
        times.append(took)
        count = len(result)
    return {"median_ms": statistics.median(times), "rounds": rounds, "domains": count}


def start(name):
    """The same call that a start through the API ends in."""
    domain = connection.lookupByName(name)
    took, _ = timed(domain.create)
    return {"ms": took}


def make(pool_name, volumes, definition):
    """The calls that a creation through the API comes to: volumes and their content, the definition,
    the start."""
    def work():
        pool = connection.storagePoolLookupByName(pool_name)
        for _name, xml, size in volumes:
            volume = pool.createXML(xml)
            if size:
                stream = connection.newStream()
                volume.upload(stream, 0, size)
                left = size
                while left:
                    left -= stream.send(bytes(min(left, 65536)))
                stream.finish()
        connection.defineXML(definition).create()

    took, _ = timed(work)
    return {"ms": took}


def watch():
    """Prints each change of a domain's metadata as another client of libvirt learns of it."""
    libvirt.virEventRegisterDefaultImpl()
    watched = libvirt.open(sys.argv[1])

    def changed(_connection, domain, *_arguments):
        now = time.time_ns()
        print(json.dumps({"name": domain.name(), "nanoseconds": now}), flush=True)

    watched.domainEventRegisterAny(
        None, libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, changed, None)
    print(json.dumps({"name": "", "nanoseconds": 0}), flush=True)
    while True:
        libvirt.virEventRunDefaultImpl()


COMMANDS = {
    "define": define,
    "listing": lambda rounds: repeat(listing, rounds),
    "bulk": lambda rounds: repeat(bulk, rounds),
    "start": start,
    "make": make,
    "version": lambda: {
        "python": sys.version.split()[0],
        "binding": libvirt.getVersion(),
        "libvirt": connection.getLibVersion(),
        "hypervisor": connection.getVersion(),
    },
}

if sys.argv[2:] == ["watch"]:
    watch()

for line in sys.stdin:
    command, *arguments = json.loads(line)
    try:
        reply = COMMANDS[command](*arguments)
    except libvirt.libvirtError as error:
        reply = {"error": str(error)}
    print(json.dumps(reply), flush=True)
