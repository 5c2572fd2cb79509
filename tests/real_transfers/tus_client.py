"""A stock tus client, as its documentation has it: uploads a file, possibly not to its end.

    tus_client.py URL FILE NAME STORE [STOP_AT]

STORE keeps the address of the upload, so that the next run goes on with it.
"""

import sys

from tusclient import client
from tusclient.storage import filestorage

url, path, name, store = sys.argv[1:5]
stop_at = int(sys.argv[5]) if len(sys.argv) > 5 else None
uploader = client.TusClient(url).uploader(
    path,
    chunk_size=1 << 20,
    metadata={"filename": name},
    upload_checksum=True,
    store_url=True,
    url_storage=filestorage.FileStorage(store),
    retries=3,
    retry_delay=1,
)
print("from", uploader.offset)
uploader.upload(stop_at=stop_at)
print("at", uploader.offset)
