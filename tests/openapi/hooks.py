"""What the fuzzer has to know beside the document: two parameters that a client does not make up,
and which refusals of well-formed requests a test host may give."""

import json

import schemathesis

# Well-formed requests that cannot be done on libvirt's test driver, or contradict themselves.
POSSIBLE_422 = {
    "NOT_SUPPORTED",
    "IMPOSSIBLE",
    "INVALID_DEFINITION",
    "INSUFFICIENT_SPACE",
    "IDEMPOTENCY_KEY_REUSED",
    "GUEST_AGENT_UNAVAILABLE",
}


def make_possible(body):
    """Most generated VMs ask for what is not supported yet, or say one thing in two forms: three of
    four are spared the 422, so that VMs are made at all."""
    if not isinstance(body, dict) or len(str(body.get("name"))) % 4 == 0:
        return
    for field in ("cloud_init", "ignition", "template"):
        body.pop(field, None)
    if "storage" in body:
        body.pop("disk_size", None)
        body.pop("pool", None)
    if "networks" in body:
        body.pop("network", None)
    if "os" in body:
        body.pop("os_type", None)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Only cases that are meant to be good are touched; the bad ones stay as bad as they are."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    # A made-up entity tag is always stale: most cases are to get beyond it.
    tag = (case.headers or {}).get("If-Match")
    if isinstance(tag, str) and len(tag) % 4 != 0:
        del case.headers["If-Match"]
    make_possible(case.body)
    # The protocol of uploads has words in its headers that no schema makes up.
    headers = case.headers or {}
    for name, value in {
        "Tus-Resumable": "1.0.0",
        "Upload-Metadata": "filename YS5pbWc=",
        "Upload-Checksum": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "Repr-Digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    }.items():
        if name in headers:
            headers[name] = value
    if not case.query:
        return
    # A cursor is opaque: only the daemon's own are good, and pages are followed by the API's tests.
    case.query.pop("cursor", None)
    # Waiting up to five minutes for an event that does not come is right, and too long here.
    if "wait" in case.query:
        case.query["wait"] = 0


@schemathesis.serializer("application/offset+octet-stream")
def a_part_of_an_upload(context, value):
    """Bytes, as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.check
def refusals_are_known(context, response, case):
    """422 and 5xx carry the codes that are meant."""
    if response.status_code == 422:
        body = json.loads(response.content)
        error = body.get("error", body)
        assert error["code"] in POSSIBLE_422, f"422 with {error['code']}: {error}"
    assert response.status_code != 500, "a defect of the daemon"


@schemathesis.check
def replies_name_their_request(context, response, case):
    """Every reply has an id, and a failure repeats it."""
    ids = response.headers.get("x-request-id")
    assert ids, "no X-Request-Id"
    if response.status_code >= 400 and response.content:
        body = json.loads(response.content)
        assert body.get("error", body)["request_id"] == ids[0]
