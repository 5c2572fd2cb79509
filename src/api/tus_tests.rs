use super::*;

fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
    [(name, HeaderValue::from_static(value))].into_iter().collect()
}

#[test]
fn metadata_is_read_as_the_protocol_has_it() {
    let read = pairs("filename d29ybGQ=,is_confidential, format cWNvdzI=").unwrap();
    assert_eq!(
        read,
        [
            ("filename".to_owned(), "world".to_owned()),
            ("is_confidential".to_owned(), String::new()),
            ("format".to_owned(), "qcow2".to_owned()),
        ]
    );
    for bad in ["filename !", "a d29ybGQ=,a d29ybGQ=", "a /w=="] {
        assert_eq!(pairs(bad).unwrap_err().kind(), Kind::InvalidRequest, "{bad}");
    }
}

#[test]
fn checksums_are_those_of_the_extension() {
    let of = |value| checksum(&headers(UPLOAD_CHECKSUM, value));
    assert!(matches!(of("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="), Ok(Some(Checksum::Sha1(_)))));
    for bad in ["sha1", "sha1 !", "md5 XUFAKrxLKna5cZ2REBfFkg==", "sha256 Kq5s"] {
        assert_eq!(of(bad).unwrap_err().kind(), Kind::InvalidRequest, "{bad}");
    }
}

#[test]
fn times_are_written_as_headers_have_them() {
    let time = jiff::Timestamp::from_second(1_403_712_000).unwrap();
    assert_eq!(http_date(time), "Wed, 25 Jun 2014 16:00:00 GMT");
}

#[test]
fn other_versions_are_refused() {
    assert!(speaks_tus(&headers(TUS_RESUMABLE, "1.0.0")).is_ok());
    for bad in [headers(TUS_RESUMABLE, "0.2.2"), HeaderMap::new()] {
        assert_eq!(speaks_tus(&bad).unwrap_err().kind(), Kind::TusVersionUnsupported);
    }
}
