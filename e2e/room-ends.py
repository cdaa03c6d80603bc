#!/usr/bin/env python3
"""Ends of a flow of datagrams, for e2e/datapath-room.test.ts. Commands come by standard input, answers are lines of JSON.

    send ADDRESS PORT TO_ADDRESS TO_PORT   "COUNT BYTES [SEGMENT]": sends so many numbered datagrams, with SEGMENT as many in one
                                           call as fit into 16 segments; answers {"sent": n, "blocked": n}
    take ADDRESS PORT [BUFFER]             "report": answers {"PORT": [numbers in the order in which they came], ...} by source
"""

import json
import select
import socket
import struct
import sys

NUMBER = struct.Struct("!II")  # number, bytes
UDP_SEGMENT = 103
SOL_UDP = 17
SEGMENTS = 16
RECEIVE_BYTES = 8 * 1024 * 1024
DEFAULT_BYTES = 212992  # of net.core.rmem_default


def open_socket(address, port, receive_bytes=RECEIVE_BYTES):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 33, receive_bytes // 2)  # SO_RCVBUFFORCE
    sock.setblocking(False)
    sock.bind((address, port))
    return sock


def datagram(number, size):
    return NUMBER.pack(number, size).ljust(size, bytes([number % 251]))


def say(line):
    print(json.dumps(line), flush=True)


def send(address, port, to_address, to_port):
    sock = open_socket(address, int(port))
    to = (to_address, int(to_port))
    number = blocked = 0
    say({"ready": True})
    for line in sys.stdin:
        count, size, *segment = map(int, line.split())
        step = SEGMENTS if segment else 1
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, size if segment else 0)
        for _ in range(0, count, step):
            try:
                sock.sendto(b"".join(datagram(number + each, size) for each in range(step)), to)
                number += step
            except BlockingIOError:
                blocked += 1
        say({"sent": number, "blocked": blocked})


def take(address, port, buffer="large"):
    sock = open_socket(address, int(port), DEFAULT_BYTES if buffer == "default" else RECEIVE_BYTES)
    came = {}
    say({"ready": True})
    while True:
        for readable in select.select([sock, sys.stdin], [], [])[0]:
            if readable is sys.stdin:
                if not sys.stdin.readline():
                    return
                say(came)
                continue
            data, source = sock.recvfrom(65535)
            number, size = NUMBER.unpack_from(data)
            whole = data == datagram(number, size)
            came.setdefault(str(source[1]), []).append(number if whole else -1)


{"send": send, "take": take}[sys.argv[1]](*sys.argv[2:])
