"""The client against a daemon one version of the API older: `older_api_cases.py '{"case": …, "recorded": <path>}'`.

What such a daemon answered was recorded; it is answered again here, to the requests to which it was.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from client_cases import raises
from weightcast import client as errors
from weightcast.trainers import ensure_instances


def older_daemon(given):
    with open(given["recorded"]) as file:
        recorded = json.load(file)
    seen = []

    class Older(BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length)) if length > 0 else None
            seen.append((self.command, self.path))
            fitting = [one for one in recorded if (one["method"], one["path"], one["body"]) == (self.command, self.path, body)]
            assert fitting, (self.command, self.path, body)
            # The status was asked for before there was an instance, and after.
            one = fitting[-1 if ("POST", "/v1/instances") in seen else 0]
            content = json.dumps(one["answer"]).encode()
            self.send_response(one["status"])
            for name, value in one["headers"].items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Older)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = errors.Client(url=f"http://127.0.0.1:{server.server_port}")
    # It cannot number ranks: the client does.
    assert ensure_instances(client, [{"endpoint": "http://127.0.0.1:1", "workers": 2}]) == ["127.0.0.1:1"]
    checkpoint = client.register("c", "/models/w.safetensors")
    assert (checkpoint.state, checkpoint.tensors, checkpoint.on_device) == ("loaded", 1, False), checkpoint
    assert client.checkpoint_files("c")["files"] == ["/models/w.safetensors"]
    assert client.status().instance("127.0.0.1:1").ranks == [0, 1]
    with raises(errors.DeadlineError, "http://127.0.0.1:1 is not ready"):
        client.update("c", timeout=5)
    client.unregister("c")
    client.remove_instance("127.0.0.1:1")
    assert ("POST", "/v1/instances") in seen and len(seen) >= 7, seen
    server.shutdown()
    server.server_close()


given = json.loads(sys.argv[1])
globals()[given["case"]](given)
