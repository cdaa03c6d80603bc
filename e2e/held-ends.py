"""
Both ends of connections of which one, the cell, is away for a while. Every byte is the one that belongs to its place.

  held-ends.py cell ADDRESS PORT
  held-ends.py peer LOCAL-ADDRESS LOCAL-PORT ADDRESS PORT KIND [NAME=VALUE...]

KIND is what the peer does: `send` and `receive` without end, `trickle` (send, slowly), `idle`, `write` (what it is told to). NAME is a TCP option of
the socket module. Both print one JSON object a line, and read commands from standard input:

  cell: freeze   its sockets are put in repair mode, as CRIU does; it does nothing until
        thaw     they leave it, and so probe for their peers
  peer: end      no more is sent: the cell says how much it has got, or gets all that was sent
        write N  N bytes are sent, the socket is closed, all at once
        say      a byte goes there and back
"""
import json
import selectors
import socket
import sys
import threading
import time

TCP_REPAIR = 19
PERIOD = 251
BLOCK = bytes(range(PERIOD)) * 262
CHUNK = len(BLOCK) - PERIOD
TRICKLE = 500
TRICKLE_S = 0.002
WRITE_BUFFER = 1 << 20


def tell(**fields):
    print(json.dumps(fields), flush=True)


def piece(at, count):
    return BLOCK[at % PERIOD:at % PERIOD + count]


class Connection:
    """One of the cell's. The first line says what the peer does."""

    def __init__(self, accepted, port):
        self.socket, self.port = accepted, port
        self.kind, self.got, self.sent, self.quiet = None, 0, 0, False

    def read(self):
        if self.kind is None:
            line = b''
            while not line.endswith(b'\n'):
                line += self.socket.recv(1)
            self.kind = line.strip().decode()
            self.socket.setblocking(False)
            return True
        data = self.socket.recv(CHUNK)
        if self.quiet:
            self.quiet = False
            tell(port=self.port, heard_ms=round((time.monotonic() - thawed) * 1000))
        if self.kind == 'idle' and data:
            self.socket.send(data)
            return True
        if self.kind == 'receive':
            return self.finish()
        if data != piece(self.got, len(data)):
            tell(port=self.port, error='bytes out of place', at=self.got)
            return False
        self.got += len(data)
        return data != b'' or self.finish()

    def drain(self):
        """So that what is heard later has come later."""
        try:
            while self.kind not in (None, 'idle', 'receive') and self.read():
                pass
        except BlockingIOError:
            pass

    def write(self):
        try:
            self.sent += self.socket.send(piece(self.sent, CHUNK))
        except BlockingIOError:
            pass

    def finish(self):
        tell(port=self.port, got=self.got, sent=self.sent)
        self.socket.setblocking(True)
        self.socket.close()
        return False


def cell(address, port):
    global thawed
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, int(port)))
    server.listen(64)
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    connections, frozen = {}, False
    tell(ready=True)
    while True:
        for key, events in selector.select():
            if key.fileobj is sys.stdin:
                line = sys.stdin.readline()
                if line == '':
                    return
                frozen = line.strip() == 'freeze'
                thawed = time.monotonic()
                for connection in list(connections.values()):
                    if frozen:
                        connection.drain()
                    connection.quiet = True
                    connection.socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, int(frozen))
                    if frozen:
                        selector.unregister(connection.socket)
                    else:
                        selector.register(connection.socket, interest(connection))
                tell(frozen=frozen)
                break
            if key.fileobj is server:
                accepted, peer = server.accept()
                connections[accepted.fileno()] = Connection(accepted, peer[1])
                selector.register(accepted, selectors.EVENT_READ)
                continue
            connection = connections[key.fd]
            try:
                alive = not events & selectors.EVENT_READ or connection.read()
                if alive and events & selectors.EVENT_WRITE:
                    connection.write()
            except OSError as error:
                tell(port=connection.port, error=error.strerror)
                alive = False
            if alive:
                selector.modify(connection.socket, interest(connection))
            else:
                selector.unregister(key.fileobj if key.fileobj.fileno() >= 0 else key.fd)
                del connections[key.fd]


def interest(connection):
    return selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.kind == 'receive' else 0)


def peer(local, local_port, address, port, kind, *options):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    sock = socket.socket(family)
    if kind == 'write':
        # So that closing it does not wait.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_BUFFER)
    for name, value in (option.split('=') for option in options):
        if name.startswith('TCP_KEEP'):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), int(value))
    sock.bind((local, int(local_port)))
    sock.connect((address, int(port)))
    sock.sendall(kind.encode() + b'\n')
    state = {'sent': 0, 'got': 0, 'ending': False}
    workers = {'send': sending, 'trickle': trickling, 'receive': receiving, 'idle': idling}
    if kind in workers:
        threading.Thread(target=guarded, args=(workers[kind], sock, state), daemon=True).start()
    tell(ready=True)
    for line in sys.stdin:
        command, *rest = line.split()
        if command == 'end':
            state['ending'] = True
        if command == 'say' or (command == 'end' and kind == 'receive'):
            try:
                sock.sendall(b'!')
            except OSError:
                pass
        elif command == 'write':
            count = int(rest[0])
            for at in range(0, count, CHUNK):
                sock.sendall(piece(at, min(CHUNK, count - at)))
            sock.close()
            tell(closed=True)
            return


def guarded(worker, sock, state):
    try:
        worker(sock, state)
    except OSError as error:
        tell(error=error.strerror, sent=state['sent'], got=state['got'])


def sending(sock, state):
    while not state['ending']:
        state['sent'] += sock.send(piece(state['sent'], CHUNK))
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)
    tell(sent=state['sent'])


def trickling(sock, state):
    while not state['ending']:
        state['sent'] += sock.send(piece(state['sent'], TRICKLE))
        time.sleep(TRICKLE_S)
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)
    tell(sent=state['sent'])


def receiving(sock, state):
    while data := sock.recv(CHUNK):
        if data != piece(state['got'], len(data)):
            tell(error='bytes out of place', at=state['got'])
            return
        state['got'] += len(data)
    tell(got=state['got'])


def idling(sock, state):
    while sock.recv(1):
        tell(said=True)


if __name__ == '__main__':
    {'cell': cell, 'peer': peer}[sys.argv[1]](*sys.argv[2:])
