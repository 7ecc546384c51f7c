"""An S3 server on this machine (moto, over HTTP), and a proxy before it that breaks what passes through, by a seed."""

import http.client
import http.server
import random
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

from moto.server import ThreadedMotoServer

KEY, SECRET = "AKIAKEYOFTHETESTS", "secret/of+the/tests+0123456789"


class S3Server:
    """moto in a thread of this process; `endpoint` is its address."""

    def __init__(self):
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"

    def stop(self):
        self._server.stop()


class FaultyProxy:
    """Passes HTTP on to `target`, but for some requests.

    Args:
        target: address of the server.
        seed: of the choice.
        unavailable, cut, reset, slow: share of the requests that get a 503; a body that ends in the middle, with the
            connection; no answer but a closed connection, though the server has done what was asked; and an answer
            that comes after `delay_s`.
        delay_s: see `slow`.

    Attributes:
        endpoint: its address.
        done: kind of fault (or `fine`) -> requests.
        puts: kinds for the next PUT requests, whatever the shares say.
    """

    def __init__(self, target, seed, unavailable=0.0, cut=0.0, reset=0.0, slow=0.0, delay_s=0.3):
        self.done, self.puts = Counter(), []
        chance, lock = random.Random(seed), threading.Lock()
        shares = {"unavailable": unavailable, "cut": cut, "reset": reset, "slow": slow}
        proxy = self

        def choose(command):
            with lock:
                kind = chance.choices([*shares, "fine"], [*shares.values(), 1 - sum(shares.values())])[0]
                if command == "PUT" and proxy.puts:
                    kind = proxy.puts.pop(0)
                proxy.done[kind] += 1
                return kind

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else b""
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    raise NotImplementedError("the client sent a chunked body")
                kind = choose(self.command)
                if kind == "unavailable":
                    return self.answer(503, {"Retry-After": "0"}, b"<Error><Code>ServiceUnavailable</Code></Error>")
                upstream = http.client.HTTPConnection(urlsplit(target).netloc, timeout=60)
                # the server gets the very bytes, and the name that was signed
                upstream.request(self.command, self.path, body, dict(self.headers))
                reply = upstream.getresponse()
                data = reply.read()
                upstream.close()
                headers = {k: v for k, v in reply.getheaders() if k.lower() not in ("connection", "transfer-encoding")}
                if kind == "slow":
                    time.sleep(delay_s)
                if kind == "reset":
                    self.close_connection = True
                    return self.connection.close()
                return self.answer(reply.status, headers, data, cut=kind == "cut")

            def answer(self, status, headers, data, cut=False):
                self.send_response_only(status)
                head = self.command == "HEAD"
                for name, value in headers.items():
                    if name.lower() != "content-length" or head:
                        self.send_header(name, value)
                if not head:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if cut and len(data) > 1:
                    self.wfile.write(data[: len(data) // 2])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()
                elif not head:
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one

            def log_message(self, *arguments):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):  # clients that we cut off
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


def options_of(endpoint):
    """`storage.options` for an endpoint of the tests."""
    return {"endpoint_url": endpoint, "key": KEY, "secret": SECRET}
