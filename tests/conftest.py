"""Where the material of the tests lies: beside the checkout, or where the environment says."""

import hashlib
import http.server
import os
import re
import socket
import threading
from pathlib import Path

# before torch is imported: on a busy machine spinning OpenMP threads made these tests nine times slower
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import av
import numpy as np
import pytest
from xdist.scheduler import LoadScopeScheduling

SHARED = Path(__file__).resolve().parents[2] / "shared"
PARITY = Path(__file__).resolve().parent / "parity" / "reference"


def pytest_xdist_make_scheduler(config, log):
    """Of two test processes one does the whole runs, which share a Ray, from the start; the other does all the rest."""
    return _WholeRunsApart(config, log)


class _WholeRunsApart(LoadScopeScheduling):
    # not by marks and --dist loadgroup, which pytest-xdist 3.8 loses on the way to its processes under pytest 9.2
    def _split_scope(self, nodeid):
        file = nodeid.split("::", 1)[0]
        return "whole runs" if "/end_to_end/" in file else file


def pytest_collection_modifyitems(items):
    """Whole runs take longest, so they come first."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)


def _folder(variable, default):
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder} (or {variable}), which is not part of the project")
    return folder


@pytest.fixture(scope="session")
def data():
    """Folder with `videos`, `odd` and `images`."""
    return _folder("FACEATLAS_DATA", SHARED / "data")


@pytest.fixture(scope="session")
def weights():
    """Folder with small published weights."""
    return _folder("FACEATLAS_MODELS", SHARED / "models")


@pytest.fixture(scope="session")
def parity():
    """Folder of the reference's answers: the repository's, or other ones of the same form."""
    return _folder("FACEATLAS_PARITY", PARITY)


@pytest.fixture(scope="session")
def free_port():
    """Gives a port that nobody listens on, a new one at each call."""

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture
def long_video(tmp_path):
    """Makes a 1080p video with a face, 30 frames/s, of any length: two seconds, repeated without encoding again."""

    def make(minutes):
        from skimage.data import astronaut

        picture = np.kron(astronaut()[:256, 100:356], np.ones((4, 4, 1), np.uint8))
        group = tmp_path / "group.mp4"
        with av.open(str(group), "w") as out:
            stream = out.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
            for i in range(60):
                frame = np.zeros((1080, 1920, 3), np.uint8)
                frame[28:1052, 8 * i : 8 * i + 1024] = picture
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode(None))
        path = tmp_path / "long.mp4"
        with av.open(str(group)) as source, av.open(str(path), "w") as out:
            stream = source.streams.video[0]
            target = out.add_stream_from_template(stream)
            packets = [(packet, packet.pts, packet.dts) for packet in source.demux(stream) if packet.size]
            length = round(60 / 30 / packets[0][0].time_base)
            for repeat in range(minutes * 30):
                for packet, pts, dts in packets:
                    packet.pts, packet.dts = pts + repeat * length, dts + repeat * length
                    packet.time_base, packet.stream = stream.time_base, target
                    out.mux(packet)
        group.unlink()
        return path

    return make


class HubServer:
    """What huggingface_hub needs of the hub, on this machine: metadata and bytes of files, with requests counted.

    Attributes:
        url: for HF_ENDPOINT.
        commit: of every repository.
        files: "owner/name/file" -> bytes.
        requests: (method, "owner/name/file") of every request.
        failures: statuses that the next requests for bytes get instead.
    """

    def __init__(self):
        self.commit, self.files, self.requests, self.failures = "c0ffee" * 6 + "0000", {}, [], []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status, headers, body=b""):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def do_GET(self):
                match = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", self.path)
                name = f"{match[1]}/{match[3]}" if match else self.path
                hub.requests.append((self.command, name))
                if not match or name not in hub.files:
                    known = match and any(file.startswith(f"{match[1]}/") for file in hub.files)
                    code = "EntryNotFound" if known else "RepoNotFound"
                    return self.answer(404, {"X-Error-Code": code, "X-Repo-Commit": hub.commit})
                if match[2] not in ("main", hub.commit):
                    return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
                if self.command == "GET" and hub.failures:
                    return self.answer(hub.failures.pop(), {})
                data = hub.files[name]
                etag = hashlib.sha256(data).hexdigest()
                headers = {"X-Repo-Commit": hub.commit, "ETag": f'"{etag}"', "Content-Length": str(len(data))}
                return self.answer(200, {**headers, "Accept-Ranges": "bytes"}, data)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def downloads(self):
        return sorted(name for method, name in self.requests if method == "GET" and name in self.files)


@pytest.fixture
def hub_server(monkeypatch, tmp_path):
    """A hub on this machine; processes that are started use it, and a cache of the test's own."""
    hub = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    # in this process the library has read its environment already
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
