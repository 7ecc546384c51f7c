"""Files that do something to who reads them: the file system `hostile://`, found by fsspec through its entry point.

A path is a local one. What a file does when read behind its first HOSTILE_AFTER_BYTES is in its name: `segfault`,
`hang`.
"""

import os
import signal
import time

from fsspec.implementations.local import LocalFileOpener, LocalFileSystem


class HostileFile(LocalFileOpener):
    def read(self, length=-1):
        if self.tell() + length > int(os.environ.get("HOSTILE_AFTER_BYTES", "64")):
            if "segfault" in self.path:
                os.kill(os.getpid(), signal.SIGSEGV)
            if "hang" in self.path:
                time.sleep(3600)
        return super().read(length)


class HostileFileSystem(LocalFileSystem):
    protocol = "hostile"
    local_file = False

    def _open(self, path, mode="rb", block_size=None, **kwargs):
        return HostileFile(path, mode, fs=self)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("hostile://"))
