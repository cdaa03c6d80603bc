"""
Connections of a process with itself. Prints their local ports as JSON: one with TCP_USER_TIMEOUT, one without, and two
more. For each line of standard input it says what the first two have; `N` sets that of the first, `send` sends some bytes on
the second, `close` closes the last two, with some bytes on their way.
"""
import json
import socket
import sys

OPTION = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
CLOSED = 2

server = socket.create_server(('127.0.0.1', 0))
clients = [socket.create_connection(server.getsockname()) for _ in range(2 + CLOSED)]
accepted = [server.accept()[0] for _ in clients]
clients[0].setsockopt(*OPTION, 2000)
ports = [client.getsockname()[1] for client in clients]
print(json.dumps({'server': server.getsockname()[1], 'clients': ports}), flush=True)
for line in sys.stdin:
    if line.strip() == 'close':
        for client in clients[-CLOSED:]:
            client.send(b'the last')
            client.close()
    elif line.strip() == 'send':
        clients[1].send(b'something')
    elif line.strip():
        clients[0].setsockopt(*OPTION, int(line))
    print(json.dumps([client.getsockopt(*OPTION) for client in clients[:2]]), flush=True)
