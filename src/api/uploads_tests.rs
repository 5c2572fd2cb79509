use super::*;

fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
    [(name, HeaderValue::from_static(value))].into_iter().collect()
}

#[test]
fn a_digest_comes_in_hexadecimal_or_as_a_header() {
    let header = headers(
        REPR_DIGEST,
        "sha-512=:AA==:, sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    );
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let none = HeaderMap::new();
    assert_eq!(expected(None, &header).unwrap(), expected(Some(empty), &none).unwrap());
    assert_eq!(expected(None, &none).unwrap(), None);
    assert!(expected(Some("e3"), &none).is_err());
    assert!(expected(None, &headers(REPR_DIGEST, "sha-256=:e3:")).is_err());
}

#[test]
fn a_digest_is_asked_for_by_how_much_it_is_liked() {
    for (value, wanted) in [
        ("sha-256=1", true),
        ("sha-512=10, sha-256=3", true),
        ("sha-256=0", false),
        ("sha-512=1", false),
        ("", false),
    ] {
        assert_eq!(wants_sha256(&headers(WANT_REPR_DIGEST, value)), wanted, "{value}");
    }
    assert!(!wants_sha256(&HeaderMap::new()));
}
