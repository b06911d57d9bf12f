"""The program of one process of a local tf.data service; `kopt.data.service` starts it as a file.

It imports nothing of kopt, so that it starts as fast as TensorFlow does. It ends when its standard input is closed,
which the system does also when the process that started it is killed.
"""

import sys
from typing import Any

import tensorflow as tf

READY = "ready"


def main(role: str, port: int, dispatcher: str) -> None:
    """Serve as `"dispatcher"` or `"worker"` until standard input ends.

    Args:
        role: `"dispatcher"` or `"worker"`.
        port: 0 for one that the system chooses.
        dispatcher: `host:port` for a worker.
    """
    service = tf.data.experimental.service
    if role == "dispatcher":
        server: Any = service.DispatchServer(service.DispatcherConfig(port=port))
        address = server.target
    else:
        # A worker that is started anew tells the dispatcher with its first heartbeat; clients wait for that.
        server = service.WorkerServer(
            service.WorkerConfig(dispatcher_address=dispatcher, port=port, heartbeat_interval_ms=500)
        )
        address = f"localhost:{port}"
    sys.stdout.write(f"{READY} {address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
