#!/usr/bin/python3
"""Asks for an IPv6 address as a machine of this DUID would, and prints what it is given (RFC 8415).

dhcp6.py INTERFACE DUID, the DUID as libvirt writes it: 00:03:00:01:52:54:00:20:10:01
"""
import ipaddress
import socket
import struct
import sys
import time

SOLICIT, ADVERTISE, REQUEST, REPLY = 1, 2, 3, 7
CLIENT, SERVER, IA, ADDRESS = 1, 2, 3, 5
interface, duid = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))


def option(code, data):
    return struct.pack("!HH", code, len(data)) + data


def options(data):
    found = {}
    while len(data) >= 4:
        code, length = struct.unpack("!HH", data[:4])
        found[code] = data[4 : 4 + length]
        data = data[4 + length :]
    return found


link = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
link.settimeout(1)
link.bind(("::", 546))
everybody = ("ff02::1:2", 547, 0, socket.if_nametoindex(interface))
asked, more, wanted = SOLICIT, b"", {SOLICIT: ADVERTISE, REQUEST: REPLY}
lease = b""
until = time.monotonic() + 20
while time.monotonic() < until:
    message = bytes([asked]) + b"vap" + option(CLIENT, duid) + more
    message += option(IA, struct.pack("!III", 1, 0, 0) + lease) + option(8, b"\0\0")
    try:
        link.sendto(message, everybody)
        reply = link.recv(2048)
    except OSError:
        # Nobody answers yet, or the link has no address of its own yet.
        time.sleep(0.1)
        continue
    if reply[0] != wanted[asked] or reply[1:4] != b"vap":
        continue
    told = options(reply[4:])
    lease = told[IA][12:]
    if asked == REQUEST:
        print(ipaddress.IPv6Address(options(lease)[ADDRESS][:16]))
        sys.exit(0)
    asked, more = REQUEST, option(SERVER, told[SERVER])
sys.exit("no server gave an address")
