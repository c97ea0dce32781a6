"""An S3 server on loopback that counts what it sends: `s3_server.py [FOLDER...]`, with a Python that has moto.

Its bucket begins with the files of the folders, each below the folder's name. It prints its port as JSON when it is ready, and for
each line of input the requests and the bytes of the bodies that it has sent since the line before. It ends with its input.
"""

import json
import logging
import sys
import threading
from pathlib import Path

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"


class Counter:
    """A WSGI application that counts the requests of another and the bytes of its responses."""

    def __init__(self, app):
        self.app, self.lock = app, threading.Lock()
        self.requests = self.bytes = 0

    def __call__(self, environ, start_response):
        body = b"".join(self.app(environ, start_response))
        # The response to HEAD has a length, and no body.
        if environ["REQUEST_METHOD"] == "HEAD":
            body = b""
        with self.lock:
            self.requests += 1
            self.bytes += len(body)
        return [body]

    def take(self):
        with self.lock:
            found = {"requests": self.requests, "bytes": self.bytes}
            self.requests = self.bytes = 0
        return found


def main():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    counter = Counter(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, counter, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
    client.create_bucket(Bucket=BUCKET)
    for folder in map(Path, sys.argv[1:]):
        for file in filter(Path.is_file, folder.iterdir()):
            client.upload_file(str(file), BUCKET, f"{folder.name}/{file.name}")
    counter.take()
    print(json.dumps({"port": server.server_port}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(counter.take()), flush=True)


if __name__ == "__main__":
    main()
