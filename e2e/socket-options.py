"""A server whose sockets have options set, and which reports all of them: python3 socket-options.py PORT SCENE.

SCENE is JSON: {"listener": {option: value}, "connections": [{option: value}, ...]}. The nth accepted connection gets the
nth set. Every line that arrives is answered with one line of JSON; `report` with what getsockopt says of every socket.
"""
import json
import selectors
import socket
import struct
import sys

SOCKET, IP, IP6, TCP = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_TCP
# Level and number, from include/uapi of Linux: Python names only some.
OPTIONS = {
    'TCP_NODELAY': (TCP, 1), 'TCP_MAXSEG': (TCP, 2), 'TCP_CORK': (TCP, 3), 'TCP_KEEPIDLE': (TCP, 4),
    'TCP_KEEPINTVL': (TCP, 5), 'TCP_KEEPCNT': (TCP, 6), 'TCP_SYNCNT': (TCP, 7), 'TCP_LINGER2': (TCP, 8),
    'TCP_DEFER_ACCEPT': (TCP, 9), 'TCP_WINDOW_CLAMP': (TCP, 10), 'TCP_QUICKACK': (TCP, 12),
    'TCP_CONGESTION': (TCP, 13), 'TCP_THIN_LINEAR_TIMEOUTS': (TCP, 16), 'TCP_USER_TIMEOUT': (TCP, 18),
    'TCP_FASTOPEN': (TCP, 23), 'TCP_NOTSENT_LOWAT': (TCP, 25), 'TCP_SAVE_SYN': (TCP, 27), 'TCP_INQ': (TCP, 36),
    'TCP_TX_DELAY': (TCP, 37), 'TCP_RTO_MAX_MS': (TCP, 44), 'TCP_RTO_MIN_US': (TCP, 45), 'TCP_DELACK_MAX_US': (TCP, 46),
    'SO_SNDBUF': (SOCKET, 7), 'SO_RCVBUF': (SOCKET, 8), 'SO_KEEPALIVE': (SOCKET, 9), 'SO_OOBINLINE': (SOCKET, 10),
    'SO_PRIORITY': (SOCKET, 12), 'SO_LINGER': (SOCKET, 13), 'SO_REUSEADDR': (SOCKET, 2), 'SO_REUSEPORT': (SOCKET, 15),
    'SO_RCVLOWAT': (SOCKET, 18), 'SO_RCVTIMEO': (SOCKET, 20), 'SO_SNDTIMEO': (SOCKET, 21),
    'SO_BINDTODEVICE': (SOCKET, 25), 'SO_TIMESTAMP': (SOCKET, 29), 'SO_MARK': (SOCKET, 36), 'SO_RXQ_OVFL': (SOCKET, 40),
    'SO_BUSY_POLL': (SOCKET, 46), 'SO_MAX_PACING_RATE': (SOCKET, 47), 'SO_INCOMING_CPU': (SOCKET, 49),
    'SO_ZEROCOPY': (SOCKET, 60), 'SO_BUF_LOCK': (SOCKET, 72), 'SO_TXREHASH': (SOCKET, 74), 'SO_LOCK_FILTER': (SOCKET, 44),
    'IP_TOS': (IP, 1), 'IP_TTL': (IP, 2), 'IP_PKTINFO': (IP, 8), 'IP_MTU_DISCOVER': (IP, 10), 'IP_RECVERR': (IP, 11),
    'IP_RECVTOS': (IP, 13), 'IP_FREEBIND': (IP, 15), 'IP_TRANSPARENT': (IP, 19), 'IP_MINTTL': (IP, 21),
    'IPV6_V6ONLY': (IP6, 26), 'IPV6_TCLASS': (IP6, 67), 'IPV6_RECVPKTINFO': (IP6, 49), 'IPV6_UNICAST_HOPS': (IP6, 16),
}


def put(one, name, value):
    level, number = OPTIONS[name]
    if isinstance(value, str):
        value = value.encode()
    elif isinstance(value, list):
        value = struct.pack('ll' if name.endswith('TIMEO') else 'ii', *value)
    one.setsockopt(level, number, value)


def take(one, name):
    level, number = OPTIONS[name]
    try:
        if name in ('TCP_CONGESTION', 'SO_BINDTODEVICE'):
            return one.getsockopt(level, number, 16).split(b'\0')[0].decode()
        if name == 'SO_LINGER':
            return list(struct.unpack('ii', one.getsockopt(level, number, 8)))
        if name.endswith('TIMEO'):
            return list(struct.unpack('ll', one.getsockopt(level, number, 16)))
        if name == 'SO_MAX_PACING_RATE':
            return struct.unpack('Q', one.getsockopt(level, number, 8))[0]
        return one.getsockopt(level, number)
    except OSError as error:
        return f'errno {error.errno}'


def report(one):
    values = {name: take(one, name) for name in OPTIONS if one.family == socket.AF_INET6 or OPTIONS[name][0] != IP6}
    info = one.getsockopt(TCP, socket.TCP_INFO, 232)
    rto, rtt, cwnd = (struct.unpack_from('I', info, offset)[0] for offset in (8, 68, 80))
    values['INFO'] = {'rto_us': rto, 'rtt_us': rtt, 'cwnd': cwnd}
    return values


def main():
    port, scene = int(sys.argv[1]), json.loads(sys.argv[2])
    listener = socket.socket(socket.AF_INET6 if scene.get('family') == 6 else socket.AF_INET)
    listener.setsockopt(SOCKET, socket.SO_REUSEADDR, 1)
    for name, value in scene.get('listener', {}).items():
        put(listener, name, value)
    listener.bind(('', port))
    listener.listen(64)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    connections = []
    while True:
        for key, _ in selector.select():
            one = key.fileobj
            if one is listener:
                accepted, _ = listener.accept()
                if len(connections) < len(scene.get('connections', [])):
                    for name, value in scene['connections'][len(connections)].items():
                        put(accepted, name, value)
                connections.append(accepted)
                selector.register(accepted, selectors.EVENT_READ)
                continue
            data = one.recv(65536)
            if not data:
                selector.unregister(one)
                continue
            if data != b'report\n':
                one.sendall(b'{}\n')
                continue
            answer = {'listener': report(listener), 'connections': [report(each) for each in connections]}
            one.sendall(json.dumps(answer).encode() + b'\n')


main()
