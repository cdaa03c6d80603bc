"""Holds connections to socket-options.py: python3 socket-client.py HOST PORT COUNT DIRECTORY.

For every file DIRECTORY/ask-N it asks on each connection in turn and writes the last answer to DIRECTORY/answer-N.
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
    if not os.path.exists(f'{directory}/ask-{asked}'):
        time.sleep(0.02)
        continue
    answer = b''
    for one in connections:
        one.sendall(b'report\n')
        answer = b''
        while not answer.endswith(b'\n'):
            piece = one.recv(65536)
            if not piece:
                answer = b'"closed"\n'
                break
            answer += piece
    with open(f'{directory}/answer.tmp', 'wb') as file:
        file.write(answer)
    os.rename(f'{directory}/answer.tmp', f'{directory}/answer-{asked}')
    asked += 1
