"""Holds connections to socket-options.py: python3 socket-client.py HOST PORT COUNT DIRECTORY.

For every file DIRECTORY/ask-N it says hello on each connection in turn and asks for the report on the last one, which it
writes to DIRECTORY/answer-N. While there is DIRECTORY/busy it asks without a pause.
It ends where a connection is closed or reset.
"""
import os
import socket
import sys
import time

host, port, count, directory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
os.makedirs(directory, exist_ok=True)
connections = []
for _ in range(count):
    connections.append(socket.create_connection((host, port)))
    connections[-1].sendall(b'hello\n')
    connections[-1].makefile('rb').readline()
asked = 0
while True:
    wanted = os.path.exists(f'{directory}/ask-{asked}')
    if not wanted and not os.path.exists(f'{directory}/busy'):
        time.sleep(0.02)
        continue
    answer = b''
    for one in connections:
        one.sendall(b'report\n' if one is connections[-1] else b'hello\n')
        answer = b''
        while not answer.endswith(b'\n'):
            piece = one.recv(65536)
            if not piece:
                sys.exit(f'a connection was closed at question {asked}')
            answer += piece
    if not wanted:
        continue
    with open(f'{directory}/answer.tmp', 'wb') as file:
        file.write(answer)
    os.rename(f'{directory}/answer.tmp', f'{directory}/answer-{asked}')
    asked += 1
